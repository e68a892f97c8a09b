// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * process_vm_readv and process_vm_writev, on the program itself and on a child, vmsplice, and
 * sending and receiving several MiB in one call: from home and elsewhere.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
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

static void receive_all(void)
{
	size_t length = 5 << 20;
	char *received = malloc(length), *sent = calloc(1, length);
	struct iovec negative = range(received, (size_t)-1);
	int ends[2], status;
	pid_t child;

	CHECK(received && sent && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	for (size_t i = 0; i < length; i++)
		sent[i] = (char)(i * 31 >> 3);
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(write(ends[1], sent, length) != (ssize_t)length);
	CHECK(recv(ends[0], received, length, MSG_WAITALL) == (ssize_t)length);
	CHECK(memcmp(received, sent, length) == 0);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(readv(ends[0], &negative, 1) == -1 && errno == EINVAL);
	CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
	free(received);
	free(sent);
}

/* A write that waits is not ended by a signal that is ignored: of a child that ends meanwhile. */
static void write_all(void)
{
	size_t length = 1 << 20, left = length;
	char *sent = calloc(1, length);
	int ends[2], held = 0, status;
	pid_t idle = fork(), reader;

	if (idle == 0)
		for (;;)
			pause();
	CHECK(sent && idle > 0 && pipe(ends) == 0);
	reader = fork();
	CHECK(reader >= 0);
	if (reader == 0) {
		while (ioctl(ends[0], FIONREAD, &held) == 0 && held < 65536)
			usleep(1000);
		kill(idle, SIGKILL);
		usleep(20000); /* it is the writer's child */
		while (left > 0) {
			ssize_t got = read(ends[0], sent, length);

			if (got <= 0)
				_exit(1);
			left -= (size_t)got;
		}
		_exit(0);
	}
	CHECK(write(ends[1], sent, length) == (ssize_t)length);
	CHECK(waitpid(reader, &status, 0) == reader && status == 0);
	CHECK(waitpid(idle, &status, 0) == idle && WIFSIGNALED(status));
	CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
	free(sent);
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
	receive_all();
	write_all();
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
