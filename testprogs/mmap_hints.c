// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mappings that ask for a place, wherever it is: each comes, somewhere, is zero,
 * keeps what is written, can grow, and be unmapped in parts; files are read meanwhile.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "common.h"

enum { PAGES = 4 };

static const uint64_t hints[] = {
	0x10000, 0xd0000, 0x100000, 0x10000000, 0x100000000, 0x10123456000, 0x100000000123,
	0x1fffffffe000, 0x200000000000, 0x200000001000, 0x200d21e40000, 0x200ffffff000,
	0x300000000000, 0x54ffffff0000, 0x54fffffff000, 0x550000000000, 0x5507f21e4000, 0x550fffffe000,
	0x551000000000, 0x7f0000000000, 0x7ffff7ff0000, 0x7ffffffff000, 0x800000000000,
};

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
		uint64_t hint = hints[i] + (uint64_t)mine * PAGES * PAGE_BYTES;
		int file = open("/proc/self/comm", O_RDONLY);
		char name[64];
		uint8_t *area = (uint8_t *)mmap((void *)hint, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(area != MAP_FAILED && (uintptr_t)area % PAGE_BYTES == 0);
		for (int page = 0; page < PAGES; page++) {
			CHECK(area[page * PAGE_BYTES] == 0);
			memset(area + page * PAGE_BYTES, mine + 1, PAGE_BYTES);
		}
		CHECK(file >= 0 && read(file, name, sizeof name) > 0);
		CHECK(memcmp(name, "mmap_hints", 10) == 0 && close(file) == 0);
		area = (uint8_t *)mremap(area, PAGES * PAGE_BYTES, 2 * PAGES * PAGE_BYTES, MREMAP_MAYMOVE);
		CHECK(area != MAP_FAILED && area[0] == mine + 1 && area[PAGES * PAGE_BYTES] == 0);
		CHECK(munmap(area + PAGES * PAGE_BYTES, PAGES * PAGE_BYTES) == 0);
		CHECK(munmap(area, PAGE_BYTES) == 0);
		CHECK(munmap(area + 3 * PAGE_BYTES, PAGE_BYTES) == 0);
		CHECK(area[PAGE_BYTES] == mine + 1 && area[3 * PAGE_BYTES - 1] == mine + 1);
		CHECK(munmap(area + PAGE_BYTES, 2 * PAGE_BYTES) == 0);
	}
	for (size_t i = 0; i < sizeof hints / sizeof *hints; i += 4) {
		uint8_t *area = (uint8_t *)mmap((void *)hints[i], PAGES * PAGE_BYTES,
						PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

		CHECK(area != MAP_FAILED && (uintptr_t)area + PAGES * PAGE_BYTES <= 1UL << 31);
		area[i] = 1;
		CHECK(munmap(area, PAGES * PAGE_BYTES) == 0);
	}
	CHECK(mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	CHECK(errno == EINVAL && mlock2((void *)hints, 1, 8) == -1 && errno == EINVAL);
	return NULL;
}

int main(void)
{
	run_threads_at_once(4, body);
	puts("mmap_hints: all mapped");
	return 0;
}
