// SPDX-License-Identifier: GPL-2.0-or-later
/* Writers change two words on two pages in step; readers never see them differ. */
#include "common.h"

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct {
	_Alignas(PAGE_BYTES) long first;
	_Alignas(PAGE_BYTES) long second;
} pair;
static int iterations;

static void *body(void *index)
{
	for (int i = 0; i < iterations; i++) {
		if (pointer_as_index(index) % 2 == 0) {
			pthread_rwlock_wrlock(&lock);
			pair.first++;
			pair.second++;
			pthread_rwlock_unlock(&lock);
		} else {
			pthread_rwlock_rdlock(&lock);
			CHECK(pair.first == pair.second);
			pthread_rwlock_unlock(&lock);
		}
		dawdle();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	iterations = argument(argc, argv, 2, 100);
	run_threads_at_once(threads, body);
	printf("rwlock: %ld %ld\n", pair.first, pair.second);
	CHECK(pair.first == (long)((threads + 1) / 2) * iterations);
	CHECK(pair.second == pair.first);
	return 0;
}
