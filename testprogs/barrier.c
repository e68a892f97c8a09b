// SPDX-License-Identifier: GPL-2.0-or-later
/* Phases between barriers: after each, every thread sees every other's step. */
#include "common.h"

static pthread_barrier_t barrier;
static int progress[THREADS_MAX];
static int threads, phases, serial_threads;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int phase = 1; phase <= phases; phase++) {
		progress[mine] += phase;
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			__atomic_fetch_add(&serial_threads, 1, __ATOMIC_SEQ_CST);
		for (int i = 0; i < threads; i++)
			CHECK(progress[i] == phase * (phase + 1) / 2);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	long total = 0;

	threads = argument(argc, argv, 1, 4);
	phases = argument(argc, argv, 2, 20);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		total += progress[i];
	printf("barrier: total %ld, serial threads %d\n", total, serial_threads);
	CHECK(serial_threads == phases);
	CHECK(pthread_barrier_destroy(&barrier) == 0);
	return 0;
}
