// SPDX-License-Identifier: GPL-2.0-or-later
/* A forked child's memory is as its parent's was, whoever has stored to it last, and then its
 * own: what it discards and what it adds is zero, and its heap goes on from where it ends. */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common.h"

enum { PAGES = 300, MOST = 200000, BLOCKS = 50, BLOCK = 20000 };

static unsigned char *shared_out, *read_only, *closed;
static char *break_before;

static unsigned char *map(size_t pages)
{
	void *found = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(found != MAP_FAILED);
	return found;
}

static void *fill(void *argument)
{
	for (int page = pointer_as_index(argument); page < PAGES; page += 2)
		shared_out[page * PAGE_BYTES + page] = (unsigned char)page | 1;
	return NULL;
}

static void inherited(void)
{
	for (int page = 0; page < PAGES; page++)
		CHECK(shared_out[page * PAGE_BYTES + page] == ((unsigned char)page | 1));
	CHECK(read_only[5] == 7);
	CHECK(mprotect(closed, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0 && closed[9] == 3);
	CHECK(mprotect(read_only, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0);
	read_only[5] = 9;
}

static void discarded_and_grown(void)
{
	unsigned char *moved;

	CHECK(madvise(shared_out, PAGES * PAGE_BYTES, MADV_DONTNEED) == 0);
	for (int page = 0; page < PAGES; page++)
		CHECK(shared_out[page * PAGE_BYTES + page] == 0);
	shared_out[1] = 2;
	moved = mremap(shared_out, PAGES * PAGE_BYTES, 2 * PAGES * PAGE_BYTES, MREMAP_MAYMOVE);
	CHECK(moved != MAP_FAILED && moved[1] == 2);
	for (int page = PAGES; page < 2 * PAGES; page++)
		CHECK(moved[page * PAGE_BYTES] == 0);
	CHECK(madvise(moved, PAGE_BYTES, MADV_FREE) == 0);
}

static void heap(void)
{
	char *blocks[BLOCKS];

	CHECK(sbrk(0) == break_before);
	CHECK((char *)syscall(SYS_brk, 0) == break_before);
	CHECK(sbrk(MOST) == break_before && break_before[0] == 0 && break_before[MOST - 1] == 0);
	memset(break_before, 3, MOST);
	CHECK(sbrk(-MOST / 2) != (void *)-1 && sbrk(MOST / 2) != (void *)-1);
	CHECK(break_before[MOST / 2 - 1] == 3 && break_before[MOST / 2 + 2 * PAGE_BYTES] == 0);
	for (int i = 0; i < BLOCKS; i++) {
		CHECK((blocks[i] = malloc(BLOCK)) != NULL);
		memset(blocks[i], i, BLOCK);
	}
	for (int i = BLOCKS - 1; i >= 0; i--)
		free(blocks[i]); /* the heap is trimmed */
	CHECK((blocks[0] = malloc(MOST)) != NULL);
	memset(blocks[0], 1, MOST);
}

int main(void)
{
	pthread_t threads[2];
	int status;
	pid_t child;

	shared_out = map(PAGES);
	read_only = map(1);
	closed = map(1);
	read_only[5] = 7;
	closed[9] = 3;
	CHECK(mprotect(read_only, PAGE_BYTES, PROT_READ) == 0);
	CHECK(mprotect(closed, PAGE_BYTES, PROT_NONE) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, fill, index_as_pointer(i)) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	break_before = sbrk(0);
	child = fork();
	if (child == 0) {
		heap();
		inherited();
		discarded_and_grown();
		_exit(0);
	}
	CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	CHECK(read_only[5] == 7 && shared_out[2 * PAGE_BYTES + 2] == 3);
	printf("child_memory: the child's own\n");
	return 0;
}
