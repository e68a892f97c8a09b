// SPDX-License-Identifier: GPL-2.0-or-later
/* nqueens THREADS N: solutions of the N-queens problem; threads take first moves in turn. */
#include "bench.h"

static int size;
static _Atomic int next_task;
static _Atomic long solutions;

static long place(unsigned columns, unsigned left, unsigned right)
{
	unsigned all = (1u << size) - 1;
	long found = 0;

	if (columns == all)
		return 1;
	for (unsigned free = all & ~(columns | left | right); free; free &= free - 1) {
		unsigned bit = free & -free;
		found += place(columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return found;
}

static void *body(void *argument)
{
	(void)argument;
	for (;;) {
		int task = next_task++;
		unsigned first, second;

		if (task >= size * size)
			return NULL;
		first = 1u << task / size;
		second = 1u << task % size;
		if (second & (first | first << 1 | first >> 1))
			continue;
		solutions += place(first | second, (first << 1 | second) << 1,
				   (first >> 1 | second) >> 1);
	}
}

int main(int argc, char **argv)
{
	double took_s;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 14);
	CHECK(size >= 4 && size <= 20);
	took_s = team_s(body);
	printf("%.6f %ld\n", took_s, solutions);
	return 0;
}
