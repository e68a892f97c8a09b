// SPDX-License-Identifier: GPL-2.0-or-later
/* pthread_spinlock_t: unlock is a plain store, which no trap can see. */
#include "common.h"

static pthread_spinlock_t lock;
static long counter;
static int iterations;

static void *body(void *unused)
{
	(void)unused;
	for (int i = 0; i < iterations; i++) {
		pthread_spin_lock(&lock);
		counter += 2;
		counter--;
		pthread_spin_unlock(&lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);

	iterations = argument(argc, argv, 2, 100);
	CHECK(pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE) == 0);
	run_threads_at_once(threads, body);
	printf("pthread_spin: %ld\n", counter);
	CHECK(counter == (long)threads * iterations);
	return 0;
}
