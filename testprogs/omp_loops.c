// SPDX-License-Identifier: GPL-2.0-or-later
/* OpenMP loops under every schedule, with reductions that miss a lost iteration. */
#include <omp.h>

#include "common.h"

enum { ITEMS = 4000 };

static long squares[ITEMS];

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4), team = 0;
	int64_t sum = 0;
	long parity = 0, greatest = -1;

	omp_set_num_threads(threads);
#pragma omp parallel
#pragma omp single
	team = omp_get_num_threads();
	CHECK(team == threads);
#pragma omp parallel for schedule(static)
	for (long i = 0; i < ITEMS; i++)
		squares[i] = i * i;
#pragma omp parallel for schedule(dynamic, 100) reduction(+ : sum)
	for (long i = 0; i < ITEMS; i++)
		sum += squares[i];
#pragma omp parallel for schedule(guided, 50) reduction(^ : parity)
	for (long i = 0; i < ITEMS; i++)
		parity ^= squares[i] * 3;
#pragma omp parallel for schedule(runtime) reduction(max : greatest)
	for (long i = 0; i < ITEMS; i++)
		greatest = squares[i] > greatest ? squares[i] : greatest;
	printf("omp_loops: sum %" PRId64 " parity %ld greatest %ld\n", sum, parity, greatest);
	CHECK(sum == (ITEMS - 1LL) * ITEMS * (2 * ITEMS - 1LL) / 6);
	return 0;
}
