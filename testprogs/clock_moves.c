// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread that reads the clock all the time is moved to and fro, wherever in it it is. */
#include <stdatomic.h>

#include "common.h"

static atomic_int done;
static int64_t readings;

static void *body(void *unused)
{
	int64_t last_ns = 0;

	(void)unused;
	while (!atomic_load_explicit(&done, memory_order_relaxed)) {
		int64_t now_ns = clock_ns(CLOCK_MONOTONIC);

		CHECK(now_ns >= last_ns);
		last_ns = now_ns;
		readings++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int moves = argument(argc, argv, 1, 30);
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	for (int i = 0; i < moves; i++) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(i % processors, &set);
		CHECK(pthread_setaffinity_np(thread, sizeof set, &set) == 0);
		usleep(2000);
	}
	atomic_store(&done, 1);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(readings > 0);
	printf("clock_moves: %d\n", moves);
	return 0;
}
