// SPDX-License-Identifier: GPL-2.0-or-later
/* Locked instructions that count bits from a far base (BTS, BTR, BTC with a register), before
 * and behind it: every thread sets its own bits of words that all share, another clears them. */
#include "common.h"

enum { ROUNDS = 2, PAGES = 5, BITS = PAGES * PAGE_BYTES * 8, STEP = 241 };

static _Alignas(PAGE_BYTES) unsigned char memory[PAGES * PAGE_BYTES];
static pthread_barrier_t all;
static int threads;

#define BASE (memory + PAGES / 2 * PAGE_BYTES)

/* What the bit was, after the instruction has set, cleared or turned it. */
#define CHANGED(instruction, bit)                                                      \
	({                                                                            \
		unsigned char was;                                                    \
		__asm__ volatile("lock " instruction " %2, %1; setc %0"               \
				 : "=q"(was), "+m"(*(volatile long *)BASE)            \
				 : "r"((long)(bit) - PAGES / 2 * PAGE_BYTES * 8L)     \
				 : "cc", "memory");                                   \
		was;                                                                  \
	})

static void *body(void *argument)
{
	int index = pointer_as_index(argument);

	for (int round = 0; round < ROUNDS; round++) {
		for (int bit = index; bit < BITS; bit += STEP * threads)
			CHECK(CHANGED("bts", bit) == 0);
		pthread_barrier_wait(&all);
		index = (index + 1) % threads;
		for (int bit = index; bit < BITS; bit += STEP * threads)
			CHECK(memory[bit / 8] >> bit % 8 & 1);
		for (int bit = index; bit < BITS; bit += STEP * threads)
			CHECK((round ? CHANGED("btc", bit) : CHANGED("btr", bit)) == 1);
		pthread_barrier_wait(&all);
		for (int at = index; at < PAGES * PAGE_BYTES; at += threads)
			CHECK(memory[at] == 0);
		pthread_barrier_wait(&all);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	threads = argument(argc, argv, 1, 4);
	CHECK(threads > 0 && threads <= STEP);
	CHECK(pthread_barrier_init(&all, NULL, threads) == 0);
	run_threads(threads, body);
	puts("bit_strings: all clear");
	return 0;
}
