// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * process_vm_readv and process_vm_writev, on the program itself and on a child, and vmsplice:
 * from home and elsewhere.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "common.h"

enum { PAGES = 3, BYTES = PAGES * PAGE_BYTES };

static char *memory, *hole;
static char copy[BYTES + 1];

static struct iovec range(void *at, size_t length)
{
	return (struct iovec){ at, length };
}

static ssize_t load(pid_t pid, void *to, void *from, size_t length)
{
	struct iovec here = range(to, length), there = range(from, length);

	return process_vm_readv(pid, &here, 1, &there, 1, 0);
}

static ssize_t store(pid_t pid, void *to, void *from, size_t length)
{
	struct iovec here = range(from, length), there = range(to, length);

	return process_vm_writev(pid, &here, 1, &there, 1, 0);
}

/* vmsplice fills a pipe by its one end, and empties it by the other. */
static void splice_memory(void)
{
	char first[4] = "", second[8] = "";
	struct iovec from[2] = { range("one", 3), range("two", 3) };
	struct iovec to[2] = { range(first, 3), range(second, 7) };
	struct iovec more = range(memory, 2 * PAGE_BYTES);
	int ends[2], filled = 0, null = open("/dev/null", O_RDWR);

	CHECK(pipe(ends) == 0 && null >= 0);
	CHECK(vmsplice(ends[1], from, 2, 0) == 6 && vmsplice(ends[0], to, 2, 0) == 6);
	CHECK(strcmp(first, "one") == 0 && strcmp(second, "two") == 0);
	CHECK(vmsplice(ends[0], to, 2, SPLICE_F_NONBLOCK) == -1 && errno == EAGAIN);
	while (vmsplice(ends[1], &more, 1, SPLICE_F_NONBLOCK) > 0)
		filled++;
	CHECK(filled > 0 && errno == EAGAIN);
	CHECK(vmsplice(null, from, 2, 0) == -1 && errno == EBADF);
	CHECK(vmsplice(ends[1], from, 2, 64) == -1 && errno == EINVAL);
	CHECK(close(ends[0]) == 0 && close(ends[1]) == 0 && close(null) == 0);
}

static void check_process(pid_t pid)
{
	struct iovec here[2] = { range(copy, 5), range(copy + 5, BYTES - 5) };
	struct iovec there[3] = { range(memory, PAGE_BYTES), range(NULL, 0),
		range(memory + PAGE_BYTES, 2 * PAGE_BYTES) };

	memset(copy, 0, BYTES);
	CHECK(process_vm_readv(pid, here, 2, there, 3, 0) == BYTES);
	CHECK(memcmp(copy, memory, BYTES) == 0);
	CHECK(load(pid, copy, hole, 1) == -1 && errno == EFAULT);
	CHECK(load(pid, copy, hole - PAGE_BYTES - 10, PAGE_BYTES + 20) == PAGE_BYTES + 10);
	CHECK(load(pid, hole, memory, 1) == -1 && errno == EFAULT);
	CHECK(load(pid, copy, (void *)16, 1) == -1 && errno == EFAULT);
	CHECK(store(pid, memory + 100, "stored", 6) == 6);
	CHECK(load(pid, copy, memory + 99, 8) == 8 && memcmp(copy, "mstoredm", 8) == 0);
	CHECK(store(pid, hole, "x", 1) == -1 && errno == EFAULT);
	CHECK(store(pid, memory + 100, "mmmmmm", 6) == 6);
	CHECK(process_vm_readv(pid, here, 2, there, 3, 1) == -1 && errno == EINVAL);
	CHECK(process_vm_readv(pid, here, 1025, there, 3, 0) == -1 && errno == EINVAL);
	CHECK(process_vm_readv(pid, here, 0, there, 3, 0) == 0);
}

static void *body(void *unused)
{
	pid_t child;

	(void)unused;
	memset(memory, 'm', BYTES);
	splice_memory();
	check_process(getpid());
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		for (;;)
			pause();
	}
	check_process(child);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	CHECK(load(child, copy, memory, 1) == -1 && errno == ESRCH);
	return NULL;
}

int main(void)
{
	memory = mmap(NULL, BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	hole = memory + BYTES;
	CHECK(mprotect(hole, PAGE_BYTES, PROT_NONE) == 0);
	body(NULL);
	run_threads(1, body);
	puts("transfers: done");
	return 0;
}
