// SPDX-License-Identifier: GPL-2.0-or-later
/* Memory that has no pages yet, touched up, down and here and there, by every thread in turn:
 * read as zeros first or not, given up again, and read by the others. */
#include <sys/mman.h>

#include "common.h"

enum { ROUNDS = 4, SHARE_PAGES = 260, STRIDE = 7 };

static pthread_barrier_t all;
static volatile unsigned char *memory;
static int threads;
static uint64_t sums[THREADS_MAX];

static size_t pages_of_all(void)
{
	return (size_t)threads * SHARE_PAGES;
}

static unsigned char value(size_t page, int round)
{
	return (unsigned char)(page * 31 + (size_t)round * 101 + 1) | 1;
}

static volatile unsigned char *byte_of(size_t page)
{
	return memory + page * PAGE_BYTES + page % PAGE_BYTES;
}

/* The page that is touched as the `step`th: up, down, in strides, from the middle outwards. */
static size_t order(int round, size_t step)
{
	switch (round) {
	case 0:
		return SHARE_PAGES - 1 - step;
	case 1:
		return step;
	case 2:
		return step * STRIDE % SHARE_PAGES;
	default:
		return step % 2 ? SHARE_PAGES / 2 + step / 2 : SHARE_PAGES / 2 - 1 - step / 2;
	}
}

static void *body(void *index)
{
	int me = pointer_as_index(index);

	for (int round = 0; round < ROUNDS; round++) {
		size_t first = (size_t)((me + round) % threads) * SHARE_PAGES;

		for (size_t page = 0; page < SHARE_PAGES; page += (size_t)(me + 3))
			CHECK(*byte_of(first + page) == 0);
		for (size_t step = 0; step < SHARE_PAGES; step++) {
			size_t page = first + order(round, step);

			CHECK(*byte_of(page) == 0);
			*byte_of(page) = value(page, round);
		}
		pthread_barrier_wait(&all);
		for (size_t page = (size_t)me; page < pages_of_all(); page += (size_t)threads) {
			CHECK(*byte_of(page) == value(page, round));
			sums[me] += value(page, round);
		}
		pthread_barrier_wait(&all);
		CHECK(madvise((void *)(memory + first * PAGE_BYTES),
			      (size_t)SHARE_PAGES * PAGE_BYTES, MADV_DONTNEED) == 0);
		pthread_barrier_wait(&all);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t sum = 0;

	threads = argument(argc, argv, 1, 3);
	CHECK(threads > 0 && threads <= THREADS_MAX);
	memory = mmap(NULL, pages_of_all() * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	CHECK(pthread_barrier_init(&all, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		sum += sums[i];
	printf("holes: %zu pages %d rounds sum %" PRIu64 "\n", pages_of_all(), ROUNDS, sum);
	return 0;
}
