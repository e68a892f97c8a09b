// SPDX-License-Identifier: GPL-2.0-or-later
/* OpenMP critical, atomic, sections, single, barrier and tasks. */
#include <omp.h>

#include "common.h"

static long fibonacci(int n)
{
	long left, right;

	if (n < 2)
		return n;
	if (n < 8)
		return fibonacci(n - 1) + fibonacci(n - 2);
#pragma omp task shared(left)
	left = fibonacci(n - 1);
#pragma omp task shared(right)
	right = fibonacci(n - 2);
#pragma omp taskwait
	return left + right;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4), n = argument(argc, argv, 2, 13);
	long in_critical = 0, in_atomic = 0, in_sections = 0, singles = 0, result = 0;

#pragma omp parallel num_threads(threads)
	{
		for (int i = 0; i < 20; i++) {
#pragma omp critical
			in_critical += i;
#pragma omp atomic
			in_atomic += i;
		}
#pragma omp barrier
		CHECK(in_critical == 190L * threads && in_atomic == 190L * threads);
#pragma omp sections reduction(+ : in_sections)
		{
#pragma omp section
			in_sections += 1;
#pragma omp section
			in_sections += 10;
#pragma omp section
			in_sections += 100;
		}
#pragma omp single
		{
			singles++;
			result = fibonacci(n);
		}
	}
	CHECK(in_sections == 111 && singles == 1);
	printf("omp_tasks: critical %ld atomic %ld fibonacci %ld\n", in_critical, in_atomic, result);
	return 0;
}
