// SPDX-License-Identifier: GPL-2.0-or-later
/* mmap, use, munmap in all threads at once; fresh memory is zero, own data stays. */
#include <sys/mman.h>

#include "common.h"

static int rounds;
static uint64_t sums[THREADS_MAX];

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	uint64_t random = (uint64_t)mine + 7;

	for (int round = 0; round < rounds; round++) {
		size_t words = (next_random(&random) % 6 + 1) * PAGE_BYTES / sizeof(uint64_t);
		uint64_t *area = (uint64_t *)mmap(NULL, words * sizeof *area, PROT_READ | PROT_WRITE,
						  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(area != MAP_FAILED);
		for (size_t i = 0; i < words; i += 64) {
			CHECK(area[i] == 0);
			area[i] = (uint64_t)mine << 32 | i;
		}
		for (size_t i = 0; i < words; i += 64) {
			CHECK(area[i] == ((uint64_t)mine << 32 | i));
			sums[mine] += area[i];
		}
		CHECK(munmap(area, words * sizeof *area) == 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	uint64_t sum = 0;

	rounds = argument(argc, argv, 2, 30);
	run_threads_at_once(threads, body);
	for (int i = 0; i < threads; i++)
		sum += sums[i];
	printf("mmap_churn: %" PRIu64 "\n", sum);
	return 0;
}
