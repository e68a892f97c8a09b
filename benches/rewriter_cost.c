// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Nanoseconds of one synchronization instruction and of a mutex pair, the best
 * of REPEATS rounds each, one "NAME NS" a line. Run as it is and rewritten.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { OPERATIONS = 200000 };
static long word __attribute__((aligned(64)));
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Each instruction as compilers emit it, in a loop of its own. */
#define KERNEL(name, code)                                                                 \
	static void name(void)                                                             \
	{                                                                                  \
		long a = 1, b = 2;                                                         \
		for (long i = 0; i < OPERATIONS; i++)                                      \
			__asm__ volatile(code : "+a"(a), "+r"(b), "+m"(word) : "r"(&word)  \
					 : "memory", "cc");                                \
	}
KERNEL(lock_xadd, "lock xaddq %0, (%3)")
KERNEL(xchg, "xchgq %0, (%3)")
KERNEL(lock_cmpxchg, "lock cmpxchgq %1, (%3)")
KERNEL(mfence, "mfence")
KERNEL(lock_or_stack, "lock orq $0, (%%rsp)")

static void mutex_pair(void)
{
	for (long i = 0; i < OPERATIONS; i++) {
		pthread_mutex_lock(&mutex);
		pthread_mutex_unlock(&mutex);
	}
}

static void *idle(void *p)
{
	return p;
}

static const struct { const char *name; void (*run)(void); } kernels[] = {
	{"lock xadd", lock_xadd}, {"xchg", xchg}, {"lock cmpxchg", lock_cmpxchg},
	{"mfence", mfence}, {"lock or (%rsp)", lock_or_stack}, {"mutex pair", mutex_pair},
};

int main(int argc, char **argv)
{
	int repeats = argc > 1 ? atoi(argv[1]) : 5;
	pthread_t t;
	/* A second thread once: libc's single-thread shortcuts end here. */
	pthread_create(&t, NULL, idle, NULL);
	pthread_join(t, NULL);
	for (unsigned k = 0; k < sizeof kernels / sizeof *kernels; k++) {
		double best = 1e30;
		for (int i = 0; i < repeats; i++) {
			double start = now_ns();
			kernels[k].run();
			double ns = (now_ns() - start) / OPERATIONS;
			best = ns < best ? ns : best;
		}
		printf("%s\t%.4f\n", kernels[k].name, best);
	}
	return 0;
}
