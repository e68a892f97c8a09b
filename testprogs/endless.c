// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Prints "ready" once all its threads run, then computes and locks until it is
 * ended from outside, or for the given number of seconds. For tests of endings.
 */
#include "common.h"

static pthread_barrier_t barrier;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counter;
static int seconds;

static void *body(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&barrier);
	int64_t until_ns = clock_ns(CLOCK_MONOTONIC) + seconds * 1000000000LL;
	while (clock_ns(CLOCK_MONOTONIC) < until_ns) {
		for (volatile int i = 0; i < 100000; i++)
			;
		pthread_mutex_lock(&lock);
		counter++;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	pthread_t handles[THREADS_MAX];

	seconds = argument(argc, argv, 2, 60);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, NULL) == 0);
	pthread_barrier_wait(&barrier);
	dprintf(1, "ready\n");
	for (int i = 0; i < threads; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	printf("endless: counted %s\n", counter > 0 ? "some" : "none");
	return 0;
}
