// SPDX-License-Identifier: GPL-2.0-or-later
/* A large file that is nearly all hole, mapped private and written by threads, moved and
 * discarded; then mapped read-only and made writable. */
#include <sys/mman.h>
#include <unistd.h>

#include "common.h"

enum { DATA_PAGES = 8, PASSES = 2 };

static const size_t SIZE = sizeof(void *) == 8 ? (size_t)4 << 30 : (size_t)256 << 20;
static volatile unsigned char *memory;
static int threads;

static size_t place_of(int page)
{
	return SIZE / DATA_PAGES * (size_t)page + PAGE_BYTES;
}

static void check_file(void)
{
	for (int page = 0; page < DATA_PAGES; page++) {
		CHECK(memory[place_of(page)] == 'a' + page);
		CHECK(memory[place_of(page) + PAGE_BYTES] == 0);
	}
}

static void *body(void *index)
{
	int me = pointer_as_index(index);

	for (int page = me; page < DATA_PAGES; page += threads) {
		CHECK(memory[place_of(page)] == 'a' + page);
		memory[place_of(page)] += 1;
		memory[place_of(page) + PAGE_BYTES] = 1;
	}
	return NULL;
}

static void write_by_threads(void)
{
	run_threads(threads, body);
	for (int page = 0; page < DATA_PAGES; page++) {
		CHECK(memory[place_of(page)] == 'b' + page);
		CHECK(memory[place_of(page) + PAGE_BYTES] == 1);
	}
}

int main(int argc, char **argv)
{
	char name[] = "/tmp/sparse-file-XXXXXX";
	int fd = mkstemp(name);
	void *moved;

	threads = argument(argc, argv, 1, 3);
	CHECK(threads > 0 && threads <= THREADS_MAX);
	CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, (off_t)SIZE) == 0);
	for (int page = 0; page < DATA_PAGES; page++) {
		char letter = (char)('a' + page);

		CHECK(pwrite(fd, &letter, 1, (off_t)place_of(page)) == 1);
	}
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	CHECK(memory != MAP_FAILED);
	check_file();
	for (int pass = 0; pass < PASSES; pass++) {
		write_by_threads();
		moved = mremap((void *)memory, SIZE, SIZE + PAGE_BYTES, MREMAP_MAYMOVE);
		CHECK(moved != MAP_FAILED && mremap(moved, SIZE + PAGE_BYTES, SIZE, 0) == moved);
		memory = moved;
		CHECK(memory[place_of(1)] == 'b' + 1);
		CHECK(madvise(moved, SIZE, MADV_DONTNEED) == 0);
		check_file();
	}
	CHECK(munmap((void *)memory, SIZE) == 0);
	memory = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	CHECK(memory != MAP_FAILED);
	check_file();
	CHECK(mprotect((void *)memory, SIZE, PROT_READ | PROT_WRITE) == 0);
	write_by_threads();
	printf("sparse_file: %d pages\n", DATA_PAGES);
	return 0;
}
