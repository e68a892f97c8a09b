// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A message behind a plain flag, to and fro: release and acquire are ordinary
 * moves on x86, so only the memory order itself keeps the payload whole.
 */
#include "common.h"

enum { WORDS = 16 };

static struct {
	_Alignas(PAGE_BYTES) long payload[WORDS];
	_Alignas(PAGE_BYTES) int turn;
} shared;
static int rounds;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int round = 0; round < rounds; round++) {
		int expected = 2 * round + mine;
		unsigned turns = 0;

		while (__atomic_load_n(&shared.turn, __ATOMIC_ACQUIRE) != expected)
			spin_politely(&turns);
		for (int i = 0; i < WORDS; i++) {
			CHECK(shared.payload[i] == (long)expected * (i + 1));
			shared.payload[i] = (long)(expected + 1) * (i + 1);
		}
		__atomic_store_n(&shared.turn, expected + 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	rounds = argument(argc, argv, 1, 60);
	run_pair(argument(argc, argv, 2, 1), body);
	printf("flag_message: turn %d payload %ld\n", shared.turn, shared.payload[WORDS - 1]);
	CHECK(shared.turn == 2 * rounds);
	return 0;
}
