// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Code that is changed in place, without a call: where there was a store to its argument there
 * is a load, of memory that may only be read, and a store again, which is the program's fault.
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "common.h"

enum { PAGES = 256, STEP = 37 };

static unsigned char *code, *area;
static pthread_barrier_t both;
static int rounds, elsewhere, faults;
static volatile int *argument_now;
static volatile int result_now;
static sigjmp_buf before;

static void handler(int number, siginfo_t *info, void *context)
{
	(void)context;
	CHECK(number == SIGSEGV && info->si_addr == argument_now && info->si_code == SEGV_ACCERR);
	siglongjmp(before, 1);
}

static void *runner(void *unused)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	stay_on(!elsewhere);
	CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
	for (int i = 0; i < 3 * rounds; i++) {
		pthread_barrier_wait(&both);
		if (sigsetjmp(before, 1))
			faults++;
		else
			result_now = ((int (*)(volatile int *, int))code)(argument_now, 7);
		pthread_barrier_wait(&both);
	}
	return unused;
}

/* Has the other thread run code, which ends with a return, on a page. */
static void run(unsigned char first, unsigned char second, int page)
{
	code[0] = first;
	code[1] = second;
	code[2] = 0xc3;
	argument_now = (int *)(area + (long)page * PAGE_BYTES);
	pthread_barrier_wait(&both);
	pthread_barrier_wait(&both);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int page = 0;

	rounds = argument(argc, argv, 1, 8);
	elsewhere = argument(argc, argv, 2, 0);
	CHECK(3 * rounds < PAGES);
	stay_on(elsewhere);
	code = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	area = mmap(NULL, (size_t)PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(code != MAP_FAILED && area != MAP_FAILED);
	for (int i = 0; i < PAGES; i++)
		*(int *)(area + (long)i * PAGE_BYTES) = 100 + i;
	for (int i = 1; i < PAGES; i += 2)
		CHECK(mprotect(area + (long)i * PAGE_BYTES, PAGE_BYTES, PROT_READ) == 0);
	CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
	CHECK(pthread_create(&thread, NULL, runner, NULL) == 0);
	for (int i = 0; i < rounds; i++) {
		page = (page + 2 * STEP) % PAGES;
		run(0x89, 0x37, page); /* mov %esi, (%rdi) */
		CHECK(*(int *)(area + (long)page * PAGE_BYTES) == 7);
		run(0x8b, 0x07, page + 1); /* mov (%rdi), %eax */
		CHECK(result_now == 100 + page + 1);
		run(0x89, 0x37, (page + 1 + STEP * 4) % PAGES);
		CHECK(faults == i + 1);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	printf("changed_code: %d faults\n", faults);
	return 0;
}
