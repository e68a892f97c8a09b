// SPDX-License-Identifier: GPL-2.0-or-later
/* OpenMP matrix multiply over two collapsed loops. */
#include <omp.h>

#include "common.h"

enum { SIZE = 96 };

static int a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	unsigned hash = 1;

	for (int i = 0; i < SIZE; i++)
		for (int j = 0; j < SIZE; j++) {
			a[i][j] = i - j;
			b[i][j] = i == (j + 1) % SIZE ? 2 : 0; /* moves columns, doubles them */
		}
#pragma omp parallel for collapse(2) num_threads(threads)
	for (int i = 0; i < SIZE; i++)
		for (int j = 0; j < SIZE; j++) {
			int sum = 0;

			for (int k = 0; k < SIZE; k++)
				sum += a[i][k] * b[k][j];
			c[i][j] = sum;
		}
	for (int i = 0; i < SIZE; i++)
		for (int j = 0; j < SIZE; j++) {
			CHECK(c[i][j] == 2 * a[i][(j + 1) % SIZE]);
			hash = hash * 31 + (unsigned)c[i][j];
		}
	printf("omp_matmul: %u\n", hash);
	return 0;
}
