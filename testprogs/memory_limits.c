// SPDX-License-Identifier: GPL-2.0-or-later
/* RLIMIT_AS and RLIMIT_DATA: what they refuse, and to whom they are handed down. */
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "common.h"

enum { MIB = 1 << 20 };

static char program[256];
static struct rlimit as, data;

static void limit(int which, size_t bytes)
{
	struct rlimit now;

	CHECK(getrlimit(which, &now) == 0);
	now.rlim_cur = bytes;
	CHECK(setrlimit(which, &now) == 0);
	CHECK(getrlimit(which, &now) == 0 && now.rlim_cur == bytes);
}

static void unlimit(void)
{
	CHECK(setrlimit(RLIMIT_AS, &as) == 0 && setrlimit(RLIMIT_DATA, &data) == 0);
}

static void *map(size_t bytes, int protection, int flags)
{
	void *found = mmap(NULL, bytes, protection, flags | MAP_ANONYMOUS, -1, 0);

	CHECK(found != MAP_FAILED || errno == ENOMEM);
	return found == MAP_FAILED ? NULL : found;
}

static void mapped(void)
{
	char *small;

	limit(RLIMIT_AS, 1024ul * MIB);
	CHECK(!map(1100ul * MIB, PROT_NONE, MAP_PRIVATE));
	CHECK(!map(1100ul * MIB, PROT_READ | PROT_WRITE, MAP_SHARED));
	small = map(100 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	CHECK(small);
	small[0] = 1;
	CHECK(mremap(small, 100 * MIB, 1100ul * MIB, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
	small = mremap(small, 100 * MIB, 200 * MIB, MREMAP_MAYMOVE);
	CHECK(small != MAP_FAILED && small[0] == 1 && small[150 * MIB] == 0);
	limit(RLIMIT_AS, 16 * PAGE_BYTES); /* less than there is: what is replaced makes room */
	CHECK(mmap(small, 10 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
		== MAP_FAILED && errno == ENOMEM);
	CHECK(!map(PAGE_BYTES, PROT_READ, MAP_PRIVATE));
	CHECK(munmap(small, 200 * MIB) == 0);
	unlimit();
}

static void counted_as_data(void)
{
	char *reserved, *end = sbrk(0);

	limit(RLIMIT_DATA, 64 * MIB);
	CHECK(!map(100 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE));
	reserved = map(100 * MIB, PROT_NONE, MAP_PRIVATE);
	CHECK(reserved);
	CHECK(mprotect(reserved, 100 * MIB, PROT_READ | PROT_WRITE) == -1 && errno == ENOMEM);
	CHECK(mprotect(reserved, 8 * MIB, PROT_READ | PROT_WRITE) == 0);
	CHECK(mprotect(reserved, 100 * MIB, PROT_READ) == 0);
	CHECK(munmap(reserved, 100 * MIB) == 0);
	reserved = map(100 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED);
	CHECK(reserved && munmap(reserved, 100 * MIB) == 0);
	CHECK(sbrk(100 * MIB) == (void *)-1 && errno == ENOMEM && sbrk(0) == end);
	CHECK(sbrk(PAGE_BYTES) == end && brk(end) == 0);
	unlimit();
}

static void checked(void)
{
	struct rlimit wrong = { 2 * MIB, MIB }, told;

	CHECK(setrlimit(RLIMIT_AS, &wrong) == -1 && errno == EINVAL);
	CHECK(prlimit(getpid(), RLIMIT_DATA, &wrong, NULL) == -1 && errno == EINVAL);
	wrong.rlim_cur = 512 * MIB;
	wrong.rlim_max = as.rlim_max;
	CHECK(prlimit(getpid(), RLIMIT_AS, &wrong, &told) == 0 && told.rlim_cur == as.rlim_cur);
	CHECK(prlimit(0, RLIMIT_AS, NULL, &told) == 0 && told.rlim_cur == 512 * MIB);
	unlimit();
}

/* In a child: are its limits 512 MiB, and does it have so much and no more? */
static int has_them(void)
{
	struct rlimit now;

	return getrlimit(RLIMIT_AS, &now) == 0 && now.rlim_cur == 512 * MIB
		&& map(100 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE)
		&& !map(600 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void reap(pid_t child)
{
	int status;

	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void handed_down(void)
{
	char *const spawned[] = { program, (char *)"child", NULL };
	pid_t child;

	limit(RLIMIT_AS, 512 * MIB);
	child = fork();
	if (child == 0)
		_exit(!has_them());
	reap(child);
	CHECK(posix_spawn(&child, program, NULL, NULL, spawned, NULL) == 0);
	reap(child);
	child = fork();
	if (child == 0) {
		execv(program, spawned);
		_exit(1);
	}
	reap(child);
	unlimit();
}

/* Nobody may raise a hard limit, not even to what it was. */
static void lowered_for_good(void)
{
	struct rlimit less = { 700 * MIB, 800 * MIB }, told;

	CHECK(setrlimit(RLIMIT_AS, &less) == 0);
	less.rlim_max = 900 * MIB;
	if (setrlimit(RLIMIT_AS, &less) == -1) /* without CAP_SYS_RESOURCE */
		CHECK(errno == EPERM && getrlimit(RLIMIT_AS, &told) == 0
			&& told.rlim_cur == 700 * MIB && told.rlim_max == 800 * MIB);
}

static void *body(void *unused)
{
	(void)unused;
	mapped();
	counted_as_data();
	checked();
	handed_down();
	return NULL;
}

int main(int argc, char **argv)
{
	char *const again[] = { program, (char *)"again", NULL };

	snprintf(program, sizeof program, "%s", argv[0]);
	if (argc > 1 && strcmp(argv[1], "child") == 0)
		return !has_them();
	if (argc > 1 && strcmp(argv[1], "again") == 0) { /* execve(2) keeps them */
		CHECK(has_them());
		printf("memory_limits: as they should be\n");
		return 0;
	}
	CHECK(getrlimit(RLIMIT_AS, &as) == 0 && getrlimit(RLIMIT_DATA, &data) == 0);
	body(NULL);
	for (int i = 0; i < 2; i++) /* one after the other: the limits are everybody's */
		run_threads(1, body);
	lowered_for_good();
	limit(RLIMIT_AS, 512 * MIB);
	execv(program, again);
	return 1;
}
