// SPDX-License-Identifier: GPL-2.0-or-later
/* main writes through a null pointer while other threads live: status 128 + 11. */
#include "common.h"

static pthread_barrier_t barrier;
static volatile intptr_t nowhere;

static void *body(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&barrier);
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 2);
	pthread_t thread;

	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	pthread_barrier_wait(&barrier);
	dprintf(1, "segv_main: writing\n");
	*(volatile int *)nowhere = 1;
	return 0;
}
