// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Steps through every instruction of functions with sites, the trampolines
 * included, and at each unwinds: outer and main must be found, always.
 * Then a thread that does nothing but locked instructions is cancelled
 * asynchronously; its cleanup handler must run.
 *
 * With an argument it steps through nothing, for debuggers.
 * Maps the page of the armed byte itself, so it also runs without a launcher.
 */
#define _GNU_SOURCE
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

int main(int argc, char **argv);
static long counter, steps, elsewhere, lost;
static char *text_end;
extern char etext;

__attribute__((noinline)) static long inner(long *p, long n)
{
	long kept[4] = {n, n + 1, n + 2, n + 3};
	__asm__ volatile("" : : "r"(kept) : "memory");
	long seen = __atomic_fetch_add(p, kept[n & 3], __ATOMIC_SEQ_CST);
	char byte = 1;
	__asm__ volatile("lock xaddb %0, %1" : "+q"(byte), "+m"(*(char *)p));
	__atomic_exchange_n(p, seen + kept[1], __ATOMIC_SEQ_CST);
	__asm__ volatile("mfence; sfence; lfence" ::: "memory");
	return seen + kept[2];
}

__attribute__((noinline)) static long leaf(long *p)
{
	__asm__ volatile("lock incl (%0); mfence" : : "r"(p) : "memory", "cc");
	return *p;
}

__attribute__((noinline)) static long outer(long n)
{
	long sum = 0;
	for (long i = 0; i < n; i++)
		sum += inner(&counter, i) + leaf(&counter);
	return sum;
}

static int within(void *at, void *function, long size)
{
	return (char *)at >= (char *)function && (char *)at < (char *)function + size;
}

static void step(int signal, siginfo_t *info, void *context)
{
	void *frames[32];
	ucontext_t *u = context;
	char *pc = (char *)u->uc_mcontext.gregs[REG_RIP];
	int in_outer = 0, in_main = 0;
	(void)signal, (void)info;
	steps++;
	elsewhere += pc > text_end;
	int n = backtrace(frames, 32);
	for (int i = 0; i < n; i++) {
		in_outer |= within(frames[i], (void *)outer, 200);
		in_main |= within(frames[i], (void *)main, 2000);
	}
	lost += !in_outer || !in_main;
}

static void cleaned(void *p)
{
	*(int *)p = 1;
}

static int clean;

static void *spin(void *p)
{
	(void)p;
	pthread_cleanup_push(cleaned, &clean);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		__asm__ volatile("lock incq %0; mfence" : "+m"(counter));
	pthread_cleanup_pop(0);
	return NULL;
}

int main(int argc, char **argv)
{
	void *first[4];
	struct sigaction action = {.sa_sigaction = step, .sa_flags = SA_SIGINFO | SA_NODEFER};
	mmap((void *)0xe2000, 4096, PROT_READ | PROT_WRITE,
	     MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	(void)argv;
	if (argc > 1)
		return outer(5) == 100 ? 0 : 1;
	text_end = &etext;
	backtrace(first, 4);
	sigaction(SIGTRAP, &action, NULL);
	long (*volatile call)(long) = outer;
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
	long sum = call(5);
	__asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
	printf("sum %ld\n", sum);
	fprintf(stderr, "steps %ld trampoline %ld lost %ld\n", steps, elsewhere, lost);
	void *result = NULL;
	pthread_t t;
	pthread_create(&t, NULL, spin, NULL);
	while (__atomic_load_n(&counter, __ATOMIC_SEQ_CST) < 100000)
		;
	pthread_cancel(t);
	pthread_join(t, &result);
	printf("cancelled %d cleaned %d\n", result == PTHREAD_CANCELED, clean);
	return 0;
}
