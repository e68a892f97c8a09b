// SPDX-License-Identifier: GPL-2.0-or-later
/* Thread-local variables: initial image, own copies, key destructors. */
#include "common.h"

static __thread int initialised = 41;
static __thread long zeroed;
static pthread_key_t key;
static pthread_barrier_t barrier;
static int *address_of_copy[THREADS_MAX];
static long sums[THREADS_MAX];
static int destroyed, iterations;

static void destroy(void *value)
{
	__atomic_fetch_add(&destroyed, pointer_as_index(value), __ATOMIC_SEQ_CST);
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	CHECK(initialised == 41 && zeroed == 0);
	CHECK(pthread_getspecific(key) == NULL);
	CHECK(pthread_setspecific(key, index_as_pointer(mine + 1)) == 0);
	address_of_copy[mine] = &initialised;
	initialised += mine;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < iterations; i++)
		zeroed += initialised;
	pthread_barrier_wait(&barrier);
	CHECK(initialised == 41 + mine && zeroed == (long)iterations * (41 + mine));
	CHECK(pointer_as_index(pthread_getspecific(key)) == mine + 1);
	sums[mine] = zeroed;
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	long sum = 0;

	iterations = argument(argc, argv, 2, 1000);
	CHECK(pthread_key_create(&key, destroy) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++) {
		sum += sums[i];
		for (int j = 0; j < i; j++)
			CHECK(address_of_copy[i] != address_of_copy[j]);
	}
	CHECK(initialised == 41 && zeroed == 0 && destroyed == threads * (threads + 1) / 2);
	printf("tls: sum %ld destroyed %d\n", sum, destroyed);
	return 0;
}
