// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Asymmetric fences: one thread stores and loads with nothing in between, the other has a call
 * in between that is a barrier for all threads: membarrier(2), or mprotect(2) taking a right
 * away, for which the kernel interrupts every processor that runs the program.
 */
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common.h"

enum { CALLS = 4, WORDS = PAGE_BYTES / sizeof(int) };

static _Alignas(PAGE_BYTES) volatile int here[2][WORDS];
static _Alignas(PAGE_BYTES) volatile int arrived[2][WORDS];
static int seen[2][WORDS];
static int rounds;
static char *page;

static void barrier(int call)
{
	static const int commands[] = { MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_GLOBAL,
					MEMBARRIER_CMD_GLOBAL_EXPEDITED };

	if (call < CALLS - 1) {
		CHECK(syscall(SYS_membarrier, commands[call], 0, 0) == 0);
		return;
	}
	CHECK(mprotect(page, PAGE_BYTES, PROT_READ) == 0);
	CHECK(mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0);
}

static void arrive(int mine, int round)
{
	arrived[mine][0] = round;
	/* It is seen by now, and takes nothing along that is stored later. */
	__asm__ volatile("mfence" ::: "memory");
}

static void await(int other, int round)
{
	unsigned turns = 0;

	while (arrived[other][0] < round)
		spin_politely(&turns);
}

/* The one without a fence begins: its store is on its way while the other's call is made. */
static void *body(void *index)
{
	int plain = pointer_as_index(index);

	stay_on(plain);
	for (int round = 0; round < CALLS * rounds; round++) {
		if (plain)
			await(0, round + 1);
		arrive(plain, round + 1);
		if (!plain)
			await(1, round + 1);
		here[plain][round] = 1;
		if (!plain)
			barrier(round / rounds);
		else
			__asm__ volatile("" ::: "memory");
		seen[plain][round] = here[!plain][round];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	rounds = argument(argc, argv, 1, 5);
	CHECK(rounds > 0 && rounds <= WORDS / CALLS);
	page = (char *)mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
	CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0);
	run_threads_at_once(2, body);
	for (int i = 0; i < CALLS * rounds; i++)
		CHECK(seen[0][i] || seen[1][i]);
	puts("asymmetric: one saw the other");
	return 0;
}
