// SPDX-License-Identifier: GPL-2.0-or-later
/* Clocks read in turn under a lock by all threads never go back. */
#include <x86intrin.h>

#include "common.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t last_monotonic_ns, last_realtime_ns;
static uint64_t last_tsc;
static int iterations, readings;

static void *body(void *unused)
{
	(void)unused;
	for (int i = 0; i < iterations; i++) {
		pthread_mutex_lock(&lock);
		int64_t monotonic_ns = clock_ns(CLOCK_MONOTONIC);
		int64_t realtime_ns = clock_ns(CLOCK_REALTIME);
		uint64_t tsc = __rdtsc();

		CHECK(monotonic_ns >= last_monotonic_ns);
		CHECK(realtime_ns >= last_realtime_ns);
		CHECK(tsc >= last_tsc);
		last_monotonic_ns = monotonic_ns;
		last_realtime_ns = realtime_ns;
		last_tsc = tsc;
		readings++;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	iterations = argument(argc, argv, 2, 60);
	run_threads_at_once(threads, body);
	CHECK(last_monotonic_ns <= clock_ns(CLOCK_MONOTONIC));
	printf("clock_order: %d readings\n", readings);
	return 0;
}
