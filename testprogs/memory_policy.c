// SPDX-License-Identifier: GPL-2.0-or-later
/* Memory policies are a thread's own, and of the nodes that the machine has. */
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common.h"

enum { DEFAULT = 0, PREFERRED = 1, BIND = 2, WORDS = 16 };

static pthread_barrier_t barrier;
static const unsigned long bits = 8 * WORDS * sizeof(long) + 1;

static long set(int mode, const unsigned long *nodes)
{
	return syscall(SYS_set_mempolicy, mode, nodes, nodes ? bits : 0);
}

static int get(unsigned long *nodes)
{
	int mode = -1;

	CHECK(syscall(SYS_get_mempolicy, &mode, nodes, bits, NULL, 0) == 0);
	return mode;
}

static void *body(void *index)
{
	unsigned long nodes[WORDS] = { 1 }, none[WORDS] = { 0 }, seen[WORDS];
	unsigned long absent[WORDS] = { [WORDS - 1] = 1 };
	int mine = pointer_as_index(index) % 2 ? BIND : PREFERRED;
	char *pages = mmap(NULL, 8 * PAGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(pages != MAP_FAILED);
	memset(seen, 0xff, sizeof seen);
	CHECK(get(seen) == DEFAULT && memcmp(seen, none, sizeof seen) == 0);
	CHECK(set(mine, nodes) == 0);
	pthread_barrier_wait(&barrier);
	memset(seen, 0xff, sizeof seen);
	CHECK(get(seen) == mine && memcmp(seen, nodes, sizeof seen) == 0);
	CHECK(set(BIND, absent) == -1 && errno == EINVAL);
	CHECK(set(99, nodes) == -1 && errno == EINVAL);
	CHECK(set(BIND, (unsigned long *)8) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_mbind, pages, 8 * PAGE_BYTES, BIND, nodes, bits, 0) == 0);
	memset(pages, mine, 8 * PAGE_BYTES);
	CHECK(syscall(SYS_mbind, pages + 1, PAGE_BYTES, BIND, nodes, bits, 0) == -1);
	CHECK(errno == EINVAL);
	CHECK(set(DEFAULT, NULL) == 0 && get(seen) == DEFAULT);
	CHECK(pages[7 * PAGE_BYTES] == mine);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	printf("memory_policy: %d threads\n", threads);
	return 0;
}
