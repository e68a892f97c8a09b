// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What every benchmark program shares: PROGRAM THREADS SIZE, a team of threads,
 * and one line on stdout: "<seconds of the parallel part> <checksum>". The
 * checksum does not depend on the number of threads.
 */
#ifndef BENCHES_BENCH_H
#define BENCHES_BENCH_H

#include "../../testprogs/common.h"

static int threads;
static pthread_barrier_t together;

static inline double now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static inline void meet(void)
{
	pthread_barrier_wait(&together);
}

/* The part [*first, *end) of `count` items that falls to a thread. */
static inline void share(int index, int count, int *first, int *end)
{
	*first = (int)((long)count * index / threads);
	*end = (int)((long)count * (index + 1) / threads);
}

static inline int parse_threads(int argc, char **argv)
{
	threads = argument(argc, argv, 1, 1);
	CHECK(threads > 0 && threads <= THREADS_MAX);
	CHECK(pthread_barrier_init(&together, NULL, threads) == 0);
	return threads;
}

/* Runs the team, and returns how long it took, the threads' beginning included. */
static inline double team_s(void *(*body)(void *))
{
	double began = now_s();

	run_threads(threads, body);
	return now_s() - began;
}

/* 64 bits, where the test programs' generator has 31 (Marsaglia's xorshift). */
static inline uint64_t next_bits(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Uniform in [0, 1). */
static inline double next_unit(uint64_t *state)
{
	return (double)(next_bits(state) >> 11) / (double)(1ULL << 53);
}

#endif
