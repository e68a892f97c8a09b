// SPDX-License-Identifier: GPL-2.0-or-later
/* The program break moved by all threads in turn: new memory is zero and shared. */
#include "common.h"

enum { STEP = 3 * PAGE_BYTES };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *start;
static int rounds, grown;

static void *body(void *index)
{
	for (int round = 0; round < rounds; round++) {
		pthread_mutex_lock(&lock);
		unsigned char *fresh = (unsigned char *)sbrk(STEP);

		CHECK(fresh == start + (size_t)grown * STEP);
		for (int i = 0; i < STEP; i += 128)
			CHECK(fresh[i] == 0);
		memset(fresh, pointer_as_index(index) + 1, STEP);
		grown++;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	long sum = 0;
	pthread_t handles[THREADS_MAX];

	rounds = argument(argc, argv, 2, 5);
	CHECK(threads <= THREADS_MAX);
	pthread_mutex_lock(&lock); /* pthread_create itself may move the break */
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, index_as_pointer(i)) == 0);
	start = (unsigned char *)sbrk(0);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	for (size_t i = 0; i < (size_t)grown * STEP; i++)
		sum += start[i];
	CHECK(sbrk(-(intptr_t)grown * STEP) != (void *)-1 && sbrk(0) == start);
	printf("brk_growth: %ld\n", sum);
	CHECK(sum == (long)rounds * STEP * threads * (threads + 1) / 2);
	return 0;
}
