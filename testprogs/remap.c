// SPDX-License-Identifier: GPL-2.0-or-later
/* mremap that leaves the old place mapped, or moves and grows mappings across the end of their
 * file, and what madvise(MADV_DONTNEED) leaves of initialized data: on home and elsewhere. */
#include <sys/mman.h>

#include "common.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { DATA_BYTES = 100 };

static char initialized[3 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES))) = {
	[0] = 'a', [PAGE_BYTES] = 'b', [2 * PAGE_BYTES] = 'c',
};
static int fd;

static char *map(size_t pages, int protection, int flags, int file)
{
	char *memory = mmap(NULL, pages * PAGE_BYTES, protection, flags, file, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

static char *move(char *old, size_t old_pages, size_t pages, int flags)
{
	void *moved = mremap(old, old_pages * PAGE_BYTES, pages * PAGE_BYTES,
		MREMAP_MAYMOVE | flags, NULL);

	CHECK(moved != MAP_FAILED);
	return moved;
}

static void discard_data(void)
{
	initialized[0] = initialized[PAGE_BYTES] = 'z';
	CHECK(madvise(initialized, PAGE_BYTES, MADV_DONTNEED) == 0);
	CHECK(initialized[0] == 'a' && initialized[PAGE_BYTES] == 'z');
	CHECK(madvise(initialized + PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED) == 0);
	CHECK(initialized[PAGE_BYTES] == 'b' && initialized[2 * PAGE_BYTES] == 'c');
}

static void leave_anonymous(int flags, char left)
{
	char *old = map(4, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1), *moved;

	memset(old, 'm', 4 * PAGE_BYTES);
	moved = move(old, 4, 4, MREMAP_DONTUNMAP);
	CHECK(moved[PAGE_BYTES] == 'm' && old[PAGE_BYTES] == left);
	old[0] = 'o';
	CHECK(moved[0] == (left == 'm' ? 'o' : 'm'));
	CHECK(munmap(old, 4 * PAGE_BYTES) == 0 && munmap(moved, 4 * PAGE_BYTES) == 0);
}

static void refuse(void)
{
	char *memory = map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	errno = 0;
	CHECK(mremap(memory, 4 * PAGE_BYTES, 4 * PAGE_BYTES, MREMAP_DONTUNMAP, NULL) == MAP_FAILED);
	CHECK(errno == EINVAL);
	errno = 0;
	CHECK(mremap(memory, 4 * PAGE_BYTES, 2 * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		NULL) == MAP_FAILED && errno == EINVAL);
	CHECK(munmap(memory, 4 * PAGE_BYTES) == 0);
}

/* A file of one page and a part of another: the mapping's last pages are beyond its end. */
static void cross_end(void)
{
	char *memory = map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd), *moved;

	memory[0] = 'g';
	moved = move(memory, 4, 4, MREMAP_DONTUNMAP);
	CHECK(moved[0] == 'g' && memory[0] == 'f' && moved[PAGE_BYTES + DATA_BYTES] == 0);
	CHECK(munmap(memory, 4 * PAGE_BYTES) == 0);
	memory = move(moved, 4, 6, 0);
	CHECK(memory[0] == 'g' && memory[PAGE_BYTES] == 'f');
	CHECK(mremap(memory, 6 * PAGE_BYTES, PAGE_BYTES, 0) == memory);
	memory = move(memory, 1, 4, 0);
	CHECK(memory[0] == 'g' && memory[PAGE_BYTES + DATA_BYTES - 1] == 'f');
	CHECK(ftruncate(fd, 4 * PAGE_BYTES) == 0 && pwrite(fd, "h", 1, 3 * PAGE_BYTES) == 1);
	CHECK(memory[3 * PAGE_BYTES] == 'h');
	CHECK(munmap(memory, 4 * PAGE_BYTES) == 0);
	memory = move(map(1, PROT_READ, MAP_PRIVATE, fd), 1, 4, 0);
	CHECK(memory[0] == 'f' && memory[3 * PAGE_BYTES] == 'h');
	CHECK(munmap(memory, 4 * PAGE_BYTES) == 0);
	CHECK(ftruncate(fd, PAGE_BYTES + DATA_BYTES) == 0);
}

static void *body(void *unused)
{
	(void)unused;
	discard_data();
	leave_anonymous(MAP_PRIVATE, 0);
	leave_anonymous(MAP_SHARED, 'm');
	refuse();
	cross_end();
	return NULL;
}

int main(void)
{
	char name[] = "/tmp/remap-XXXXXX", data[PAGE_BYTES + DATA_BYTES];

	fd = mkstemp(name);
	CHECK(fd >= 0 && unlink(name) == 0);
	memset(data, 'f', sizeof data);
	CHECK(write(fd, data, sizeof data) == sizeof data);
	body(NULL);
	for (int pass = 0; pass < 2; pass++)
		run_threads(1, body);
	puts("remap: done");
	return 0;
}
