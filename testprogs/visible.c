// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * while (!flag); against a plain store: how long until it ends, in microseconds, one line
 * for each time. The flag's page is also written by both threads, now and then, so that a
 * policy may well let both write it at once.
 */
#include <x86intrin.h>

#include "common.h"

enum { TIMES = 21, OWN = 1, FLAG = 64 };

static _Alignas(PAGE_BYTES) volatile int page[PAGE_BYTES / sizeof(int)];
static _Alignas(PAGE_BYTES) uint64_t stored[TIMES];
static _Alignas(PAGE_BYTES) uint64_t seen[TIMES];
static pthread_barrier_t barrier;
static uint64_t pause_cycles;

static void share_the_page(int mine)
{
	uint64_t begin = __rdtsc();

	while (__rdtsc() - begin < pause_cycles)
		++page[OWN + mine];
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int time = 0; time < TIMES; time++) {
		pthread_barrier_wait(&barrier);
		if (time % 3)
			share_the_page(mine);
		if (mine) {
			while (!page[FLAG + time])
				;
			seen[time] = __rdtsc();
		} else {
			share_the_page(mine);
			page[FLAG + time] = 1;
			stored[time] = __rdtsc();
			share_the_page(mine); /* no system call, no fence */
			share_the_page(mine);
		}
	}
	return NULL;
}

int main(void)
{
	int64_t begin_ns = clock_ns(CLOCK_MONOTONIC);
	uint64_t begin = __rdtsc();
	double per_us;

	for (volatile int i = 0; i < 20000000; i++)
		;
	per_us = (double)(__rdtsc() - begin) * 1e3 / (double)(clock_ns(CLOCK_MONOTONIC) - begin_ns);
	pause_cycles = (uint64_t)(per_us * 30e3);
	CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
	run_threads_at_once(2, body);
	for (int time = 0; time < TIMES; time++)
		printf("%.0f\n", (double)(int64_t)(seen[time] - stored[time]) / per_us);
	return 0;
}
