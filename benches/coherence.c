// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What benches/coherence.py times. The last line of output is the seconds that it took.
 *
 *     jacobi THREADS ROWS COLUMNS SWEEPS INNER
 *                                          a five-point stencil; row i belongs to thread
 *                                          i % THREADS, so that pages are shared wherever
 *                                          a row is shorter than a page; each sweep works
 *                                          its values out INNER times
 *     stream MIB                           one thread has written it all, another reads it
 */
#include "../testprogs/common.h"

static int threads, rows, columns, sweeps, inner;
static double *grid[2];
static size_t words;
static uint64_t *area, sum;
static int64_t began_ns, ended_ns;
static pthread_barrier_t barrier;

static void relax_row(const double *from, volatile double *to)
{
	for (int j = 1; j < columns - 1; j++)
		to[j] = 0.25 * (from[j - columns] + from[j + columns] + from[j - 1] + from[j + 1]);
}

static void *relax(void *index)
{
	int mine = pointer_as_index(index);

	if (mine == 0)
		began_ns = clock_ns(CLOCK_MONOTONIC);
	for (int sweep = 0; sweep < sweeps; sweep++) {
		const double *from = grid[sweep & 1];
		double *to = grid[!(sweep & 1)];

		for (int again = 0; again < inner; again++)
			for (int i = 1 + mine; i < rows - 1; i += threads)
				relax_row(from + (long)i * columns, to + (long)i * columns);
		pthread_barrier_wait(&barrier);
	}
	if (mine == 0)
		ended_ns = clock_ns(CLOCK_MONOTONIC);
	return NULL;
}

static void jacobi(void)
{
	double total = 0;

	for (int k = 0; k < 2; k++) {
		CHECK(posix_memalign((void **)&grid[k], PAGE_BYTES,
				     sizeof(double) * (size_t)rows * (size_t)columns) == 0);
		for (long i = 0; i < (long)rows * columns; i++)
			grid[k][i] = i < columns || i % columns == 0;
	}
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads_at_once(threads, relax);
	for (long i = 0; i < (long)rows * columns; i++)
		total += grid[sweeps & 1][i];
	printf("%.9f\n", total);
}

static void *flow(void *index)
{
	if (pointer_as_index(index) == 0)
		for (size_t i = 0; i < words; i++)
			area[i] = i * 0x9e3779b97f4a7c15ULL;
	pthread_barrier_wait(&barrier);
	if (pointer_as_index(index) == 1) {
		began_ns = clock_ns(CLOCK_MONOTONIC);
		for (size_t i = 0; i < words; i++)
			sum += area[i];
		ended_ns = clock_ns(CLOCK_MONOTONIC);
	}
	return NULL;
}

static void stream(void)
{
	uint64_t expected = 0;

	CHECK(posix_memalign((void **)&area, PAGE_BYTES, words * sizeof *area) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
	run_threads_at_once(2, flow);
	for (size_t i = 0; i < words; i++)
		expected += i * 0x9e3779b97f4a7c15ULL;
	CHECK(sum == expected);
}

int main(int argc, char **argv)
{
	CHECK(argc > 2);
	threads = argument(argc, argv, 2, 2);
	rows = argument(argc, argv, 3, 128);
	columns = argument(argc, argv, 4, 128);
	sweeps = argument(argc, argv, 5, 100);
	inner = argument(argc, argv, 6, 1);
	words = (size_t)threads * (1 << 20) / sizeof *area;
	if (strcmp(argv[1], "jacobi") == 0)
		jacobi();
	else
		stream();
	printf("%.6f\n", (double)(ended_ns - began_ns) / 1e9);
	return 0;
}
