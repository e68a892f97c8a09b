// SPDX-License-Identifier: GPL-2.0-or-later
/* OpenMP: reductions, atomics, critical sections, barriers. */
#include <stdio.h>

int main(void)
{
	long sum = 0, count = 0, guarded = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(4)
	for (int i = 1; i < 100000; i++)
		sum += i % 17;
#pragma omp parallel num_threads(4)
	for (int i = 0; i < 300; i++) {
#pragma omp atomic
		count++;
#pragma omp critical
		guarded++;
#pragma omp barrier
	}
	printf("%ld %ld %ld\n", sum, count, guarded);
	return 0;
}
