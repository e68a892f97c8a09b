// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Dekker's mutual exclusion. It fails on x86 unless a store to one's own flag
 * is visible before the other's flag is read: the store buffer must drain.
 * The includer defines raise_flag(int *flag), a store followed by a full fence.
 */
#ifndef TESTPROGS_DEKKER_H
#define TESTPROGS_DEKKER_H

#include "common.h"

static struct {
	_Alignas(PAGE_BYTES) int wants[2];
	_Alignas(PAGE_BYTES) int turn;
	_Alignas(PAGE_BYTES) long counter;
} dekker;
static int iterations;

static void raise_flag(int *flag);

static inline int load(int *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store(int *word, int value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void enter(int mine)
{
	int other = 1 - mine;
	unsigned turns = 0;

	raise_flag(&dekker.wants[mine]);
	while (load(&dekker.wants[other])) {
		if (load(&dekker.turn) != mine) {
			store(&dekker.wants[mine], 0);
			while (load(&dekker.turn) != mine)
				spin_politely(&turns);
			raise_flag(&dekker.wants[mine]);
		} else {
			spin_politely(&turns);
		}
	}
}

static void leave(int mine)
{
	store(&dekker.turn, 1 - mine);
	store(&dekker.wants[mine], 0);
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int i = 0; i < iterations; i++) {
		enter(mine);
		dekker.counter++;
		leave(mine);
	}
	return NULL;
}

static int run_dekker(const char *name, int argc, char **argv)
{
	iterations = argument(argc, argv, 1, 100);
	run_pair(argument(argc, argv, 2, 1), body);
	printf("%s: %ld\n", name, dekker.counter);
	CHECK(dekker.counter == 2L * iterations);
	return 0;
}

#endif
