// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The address spaces of ThreadSanitizer, MemorySanitizer and AddressSanitizer: each wants
 * certain terabytes for shadows of memory, and others that nobody uses. Valgrind has its
 * program in the fourth megabyte and below.
 */
#include <sys/mman.h>

#include "common.h"

static const struct {
	uint64_t start, end;
	int used;
} ranges[] = {
	{0x010000000000, 0x200000000000, 1}, /* ThreadSanitizer: shadow, gap, metadata, gap, traces */
	{0x200000000000, 0x300000000000, 0},
	{0x300000000000, 0x400000000000, 1},
	{0x400000000000, 0x550000000000, 0},
	{0x568000000000, 0x600000000000, 0},
	{0x600000000000, 0x620000000000, 1},
	{0x100000000000, 0x110000000000, 0}, /* MemorySanitizer: gap, origins, shadows, gap */
	{0x110000000000, 0x200000000000, 1},
	{0x200000000000, 0x400000000000, 1},
	{0x400000000000, 0x500000000000, 0},
	{0x500000000000, 0x510000000000, 1},
	{0x600000000000, 0x610000000000, 1},
	{0x610000000000, 0x700000000000, 0},
	{0x00007fff8000, 0x10007fff8000, 1}, /* AddressSanitizer: shadow, and its heap */
	{0x600000000000, 0x640000000000, 1},
	{0x000000108000, 0x000000400000, 1}, /* Valgrind */
};

static char *volatile shadow;
static uint64_t size;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int page = 0; page < 4; page++) {
		char *at = shadow + size / 16 * (uint64_t)(page * 4 + mine);

		CHECK(*at == 0);
		*at = (char)(mine + 1);
		CHECK(*at == mine + 1);
	}
	return NULL;
}

int main(void)
{
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
		size = ranges[i].end - ranges[i].start;
		shadow = (char *)mmap((void *)ranges[i].start, size,
				      ranges[i].used ? PROT_READ | PROT_WRITE : PROT_NONE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
		CHECK(shadow == (char *)ranges[i].start);
		if (ranges[i].used)
			run_threads(4, body);
		CHECK(munmap(shadow, size) == 0);
	}
	puts("shadow_memory: all mapped");
	return 0;
}
