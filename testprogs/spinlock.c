// SPDX-License-Identifier: GPL-2.0-or-later
/* A spin lock made of XCHG and a plain release store, around a plain counter. */
#include "common.h"

static struct {
	_Alignas(64) int held;
	_Alignas(64) long counter;
} shared;
static int iterations;

static void *body(void *unused)
{
	(void)unused;
	for (int i = 0; i < iterations; i++) {
		unsigned turns = 0;

		while (__atomic_exchange_n(&shared.held, 1, __ATOMIC_ACQUIRE))
			while (__atomic_load_n(&shared.held, __ATOMIC_RELAXED))
				spin_politely(&turns);
		shared.counter++;
		__atomic_store_n(&shared.held, 0, __ATOMIC_RELEASE);
		dawdle();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	iterations = argument(argc, argv, 2, 200);
	run_threads_at_once(threads, body);
	printf("spinlock: %ld\n", shared.counter);
	CHECK(shared.counter == (long)threads * iterations);
	return 0;
}
