// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread-local array of 300 KiB, with its own contents in each thread. */
#include "common.h"

enum { WORDS = 300 * 1024 / 4 };

static __thread uint32_t table[WORDS];
static __thread uint32_t marker = 0x5eed;
static pthread_barrier_t barrier;
static uint64_t sums[THREADS_MAX];

static uint64_t fill_and_sum(uint32_t seed, int wait)
{
	uint64_t sum = 0;

	CHECK(marker == 0x5eed);
	for (int i = 0; i < WORDS; i++) {
		CHECK(table[i] == 0);
		table[i] = seed * 2654435761u + (uint32_t)i;
	}
	marker = seed;
	if (wait)
		pthread_barrier_wait(&barrier);
	for (int i = 0; i < WORDS; i++) {
		CHECK(table[i] == seed * 2654435761u + (uint32_t)i);
		sum += table[i];
	}
	CHECK(marker == seed);
	return sum;
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	sums[mine] = fill_and_sum((uint32_t)mine + 1, 1);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	uint64_t total = fill_and_sum(1000, 0);

	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		total += sums[i];
	CHECK(marker == 1000 && table[WORDS - 1] == 1000 * 2654435761u + WORDS - 1);
	printf("large_tls: %" PRIu64 "\n", total);
	return 0;
}
