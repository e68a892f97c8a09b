// SPDX-License-Identifier: GPL-2.0-or-later
/* pthread_once from all threads at once: each routine runs exactly one time. */
#include "common.h"

enum { CONTROLS = 10 };

static pthread_once_t controls[CONTROLS];
static pthread_barrier_t barrier;
static int runs[CONTROLS], current;

static void routine(void)
{
	runs[current]++;
}

static void *body(void *index)
{
	for (int i = 0; i < CONTROLS; i++) {
		if (pointer_as_index(index) == 0)
			current = i;
		pthread_barrier_wait(&barrier);
		CHECK(pthread_once(&controls[i], routine) == 0);
		CHECK(runs[i] == 1);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	int total = 0;
	pthread_once_t initial = PTHREAD_ONCE_INIT;

	for (int i = 0; i < CONTROLS; i++)
		controls[i] = initial;
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < CONTROLS; i++)
		total += runs[i];
	printf("once: %d\n", total);
	CHECK(total == CONTROLS);
	return 0;
}
