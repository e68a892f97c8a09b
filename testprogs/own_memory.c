// SPDX-License-Identifier: GPL-2.0-or-later
/* /proc/self/mem: what any thread has stored is read there, and what is written is loaded. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "common.h"

enum { PAGES = 20, BYTES = PAGES * PAGE_BYTES };

static unsigned char *memory;
static int file;
static unsigned char copy[BYTES];

static off64_t place(size_t at)
{
	return (off64_t)(uintptr_t)(memory + at);
}

static void fill(int value)
{
	for (int i = 0; i < BYTES; i++)
		memory[i] = (unsigned char)(value + i / PAGE_BYTES);
}

static void *stores(void *value)
{
	fill(pointer_as_index(value));
	return NULL;
}

/* Memory is as fill(value) left it, read in each way. */
static void *reads(void *value)
{
	struct iovec parts[2] = { { copy, 100 }, { copy + 100, BYTES - 100 } };

	for (int way = 0; way < 3; way++) {
		memset(copy, 0, BYTES);
		if (way == 0)
			CHECK(pread64(file, copy, BYTES, place(0)) == BYTES);
		else if (way == 1)
			CHECK(preadv64(file, parts, 2, place(0)) == BYTES);
		else
			CHECK(lseek64(file, place(0), SEEK_SET) == place(0)
				&& read(file, copy, BYTES) == BYTES
				&& lseek64(file, 0, SEEK_CUR) == place(BYTES));
		for (int i = 0; i < BYTES; i++)
			CHECK(copy[i] == (unsigned char)(pointer_as_index(value) + i / PAGE_BYTES));
	}
	return NULL;
}

static void *writes(void *value)
{
	memset(copy, pointer_as_index(value), BYTES);
	CHECK(pwrite64(file, copy, 2 * PAGE_BYTES, place(100)) == 2 * PAGE_BYTES);
	CHECK(lseek64(file, place(5 * PAGE_BYTES), SEEK_SET) == place(5 * PAGE_BYTES));
	CHECK(write(file, copy, 10) == 10);
	return NULL;
}

static void *loads(void *value)
{
	unsigned char written = (unsigned char)pointer_as_index(value);

	for (int i = 0; i < 2 * PAGE_BYTES; i++)
		CHECK(memory[100 + i] == written);
	CHECK(memory[5 * PAGE_BYTES + 9] == written && memory[5 * PAGE_BYTES + 10] != written);
	return NULL;
}

static void by_another(void *(*body)(void *), int value)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, index_as_pointer(value)) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

int main(void)
{
	char byte;

	memory = mmap(NULL, BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	file = open("/proc/self/mem", O_RDWR);
	CHECK(memory != MAP_FAILED && munmap(memory + BYTES, PAGE_BYTES) == 0 && file >= 0);
	for (int round = 0; round < 4; round++) {
		by_another(stores, 10 * round + 1);
		by_another(reads, 10 * round + 1);
		by_another(stores, 10 * round + 2);
		reads(index_as_pointer(10 * round + 2));
		fill(10 * round + 3);
		by_another(reads, 10 * round + 3);
		by_another(writes, 100 + round);
		loads(index_as_pointer(100 + round));
		writes(index_as_pointer(200 + round));
		by_another(loads, 200 + round);
	}
	CHECK(mprotect(memory, BYTES, PROT_NONE) == 0);
	CHECK(pread64(file, copy, 10, place(200)) == 10 && copy[0] == 203);
	CHECK(pread64(file, copy, 20, place(BYTES - 10)) == 10); /* what is mapped of it */
	CHECK(pread64(file, &byte, 1, place(BYTES)) == -1 && errno == EIO);
	CHECK(pread64(file, &byte, 1, 0) == -1 && errno == EIO);
	printf("own_memory: read and written\n");
	return 0;
}
