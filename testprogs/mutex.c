// SPDX-License-Identifier: GPL-2.0-or-later
/* A counter under one mutex: a lost update makes it too small. */
#include "common.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counter;
static int iterations;

static void *body(void *unused)
{
	(void)unused;
	for (int i = 0; i < iterations; i++) {
		pthread_mutex_lock(&lock);
		counter++;
		pthread_mutex_unlock(&lock);
		dawdle();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	iterations = argument(argc, argv, 2, 300);
	run_threads_at_once(threads, body);
	printf("mutex: %ld\n", counter);
	CHECK(counter == (long)threads * iterations);
	return 0;
}
