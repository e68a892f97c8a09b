// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Lines printed by all threads through one FILE. Their order is free, so the
 * reader sorts them; every line must be there, whole, once.
 */
#include "common.h"

static int lines;

static void *body(void *index)
{
	for (int i = 0; i < lines; i++)
		printf("thread %d line %d square %d\n", pointer_as_index(index), i, i * i);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	lines = argument(argc, argv, 2, 50);
	run_threads_at_once(threads, body);
	CHECK(fflush(stdout) == 0);
	return 0;
}
