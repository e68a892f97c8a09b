// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What every test program shares: small integer arguments, a check that ends
 * the program loudly, and a team of threads.
 *
 * A program prints the same text on every correct run. A failed CHECK ends it
 * with status 99, so neither wrong output nor a wrong inner state can pass.
 */
#ifndef TESTPROGS_COMMON_H
#define TESTPROGS_COMMON_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, PAGE_BYTES = 4096 };

/* _exit, not exit: other threads may be inside stdio or hold its locks. */
#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			dprintf(2, "%s:%d: check failed: %s (errno %d)\n",          \
				__FILE__, __LINE__, #condition, errno);             \
			_exit(99);                                                  \
		}                                                                   \
	} while (0)

/* The numeric argument at `index`, or `fallback` when it is not given. */
static inline int argument(int argc, char **argv, int index, int fallback)
{
	return argc > index ? atoi(argv[index]) : fallback;
}

static inline void *index_as_pointer(int index)
{
	return (void *)(intptr_t)index;
}

static inline int pointer_as_index(void *pointer)
{
	return (int)(intptr_t)pointer;
}

/* Moves this thread to a processor, of which there may be fewer. */
static inline void stay_on(int processor)
{
	int there = processor % (int)sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(there, &one);
	CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
	CHECK(sched_getcpu() == there);
}

/* Runs body(0) ... body(count - 1), each on a thread of its own, and joins all. */
static inline void run_threads(int count, void *(*body)(void *))
{
	pthread_t threads[THREADS_MAX];

	CHECK(count > 0 && count <= THREADS_MAX);
	for (int i = 0; i < count; i++)
		CHECK(pthread_create(&threads[i], NULL, body, index_as_pointer(i)) == 0);
	for (int i = 0; i < count; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static struct {
	pthread_barrier_t gate;
	void *(*body)(void *);
} team;

static inline void *team_member(void *index)
{
	pthread_barrier_wait(&team.gate);
	return team.body(index);
}

/*
 * The same, but no body starts before every thread runs: without this the first
 * thread of a short program is done before the second begins, and nothing is shared.
 */
static inline void run_threads_at_once(int count, void *(*body)(void *))
{
	CHECK(pthread_barrier_init(&team.gate, NULL, (unsigned)count) == 0);
	team.body = body;
	run_threads(count, team_member);
}

/*
 * Runs body(0) and body(1) at the same time: on two threads, or, with `main_plays`,
 * body(0) in main, which is at home, and body(1) on the one thread made, which is not.
 */
static inline void run_pair(int main_plays, void *(*body)(void *))
{
	pthread_t thread;

	if (!main_plays) {
		run_threads_at_once(2, body);
		return;
	}
	CHECK(pthread_barrier_init(&team.gate, NULL, 2) == 0);
	team.body = body;
	CHECK(pthread_create(&thread, NULL, team_member, index_as_pointer(1)) == 0);
	team_member(index_as_pointer(0));
	CHECK(pthread_join(thread, NULL) == 0);
}

/* Some tens of microseconds of private work, so that others get between two accesses. */
static inline void dawdle(void)
{
	for (volatile int i = 0; i < 20000; i++)
		;
}

/* One turn of a busy wait: polite to a core that is shared with the other side. */
static inline void spin_politely(unsigned *turns)
{
	if (++*turns % 64 == 0)
		sched_yield();
	else
		__builtin_ia32_pause();
}

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	CHECK(clock_gettime(clock, &now) == 0);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* A small generator (Knuth's MMIX constants): the same numbers on every machine. */
static inline uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 33;
}

#endif
