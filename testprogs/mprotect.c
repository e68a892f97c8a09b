// SPDX-License-Identifier: GPL-2.0-or-later
/* mprotect in all threads: data survives, and the kernel sees the protection. */
#include <sys/mman.h>

#include "common.h"

enum { PAGES = 4 };

static int rounds, ends[2];
static uint64_t sums[THREADS_MAX];
/* Where no kernel maps anything unasked. What a thread has unmapped may be another's by now. */
static void *const nowhere = (void *)0x20000;

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	size_t bytes = PAGES * PAGE_BYTES;
	unsigned char *area = (unsigned char *)mmap(NULL, bytes, PROT_READ | PROT_WRITE,
						    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(area != MAP_FAILED);
	for (int round = 1; round <= rounds; round++) {
		memset(area, mine + round, bytes);
		CHECK(mprotect(area, bytes, PROT_READ) == 0);
		for (size_t i = 0; i < bytes; i += 512)
			sums[mine] += area[i];
		CHECK(mprotect(area + PAGE_BYTES, PAGE_BYTES, PROT_NONE) == 0);
		CHECK(area[0] == mine + round && area[2 * PAGE_BYTES] == mine + round);
		CHECK(write(ends[1], area + PAGE_BYTES, 1) == -1 && errno == EFAULT);
		CHECK(mprotect(area, bytes, PROT_READ | PROT_WRITE) == 0);
		CHECK(area[PAGE_BYTES + 5] == mine + round);
	}
	CHECK(munmap(area, bytes) == 0);
	CHECK(mprotect(nowhere, bytes, PROT_READ) == -1 && errno == ENOMEM);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	uint64_t sum = 0;

	rounds = argument(argc, argv, 2, 5);
	CHECK(pipe(ends) == 0);
	run_threads_at_once(threads, body);
	for (int i = 0; i < threads; i++)
		sum += sums[i];
	printf("mprotect: %" PRIu64 "\n", sum);
	return 0;
}
