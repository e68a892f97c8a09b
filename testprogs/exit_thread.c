// SPDX-License-Identifier: GPL-2.0-or-later
/* exit() from a thread other than main: handlers run, all threads end, status kept. */
#include "common.h"

static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static int status;

static void at_exit(void)
{
	printf("exit_thread: handler ran\n");
}

static void *body(void *index)
{
	pthread_barrier_wait(&barrier);
	switch (pointer_as_index(index)) {
	case 0:
		exit(status);
	case 1:
		for (volatile unsigned long i = 0;; i++) /* computes until it is ended */
			;
	default:
		pthread_mutex_lock(&never); /* sleeps until it is ended */
		return NULL;
	}
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	status = argument(argc, argv, 2, 7);
	CHECK(atexit(at_exit) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	pthread_mutex_lock(&never);
	run_threads(threads, body);
	return 98; /* not reached */
}
