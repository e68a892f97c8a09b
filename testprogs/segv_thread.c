// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread reads an unmapped address: the whole process dies, status 128 + 11. */
#include "common.h"

static pthread_barrier_t barrier;
static volatile intptr_t nowhere = 0x10;

static void *body(void *index)
{
	pthread_barrier_wait(&barrier);
	if (pointer_as_index(index) == 0) {
		dprintf(1, "segv_thread: reading\n");
		return (void *)*(volatile intptr_t *)nowhere;
	}
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	return 0;
}
