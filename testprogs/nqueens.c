// SPDX-License-Identifier: GPL-2.0-or-later
/* Compute bound: n queens; threads draw the first two columns from a counter. */
#include "common.h"

static int size, drawn;
static long solutions;

static long place(unsigned all, unsigned columns, unsigned left, unsigned right)
{
	long count = 0;

	if (columns == all)
		return 1;
	for (unsigned free = all & ~(columns | left | right); free; free &= free - 1) {
		unsigned bit = free & -free;

		count += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return count;
}

static void *body(void *unused)
{
	unsigned all = (1u << size) - 1;
	int task;

	(void)unused;
	while ((task = __atomic_fetch_add(&drawn, 1, __ATOMIC_SEQ_CST)) < size * size) {
		unsigned first = 1u << (task / size), second = 1u << (task % size);

		if (second & (first | first << 1 | first >> 1))
			continue;
		long found = place(all, first | second, (first << 1 | second) << 1,
				   (first >> 1 | second) >> 1);
		__atomic_fetch_add(&solutions, found, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static const long known[] = { 0, 1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200, 73712 };
	int threads = argument(argc, argv, 1, 4);

	size = argument(argc, argv, 2, 10);
	CHECK(size >= 4 && size <= 13);
	run_threads_at_once(threads, body);
	printf("nqueens: %d queens, %ld solutions\n", size, solutions);
	CHECK(solutions == known[size]);
	return 0;
}
