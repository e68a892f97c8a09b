// SPDX-License-Identifier: GPL-2.0-or-later
/* lu THREADS N: LU factors of a diagonally dominant N by N matrix, in blocks, no pivoting. */
#include "bench.h"

enum { BLOCK = 64 };
static int blocks;
static double *matrix; /* block (i, j) is contiguous */

static double *block_at(int i, int j)
{
	return matrix + ((long)i * blocks + j) * BLOCK * BLOCK;
}

static void factor(double *d)
{
	for (int k = 0; k < BLOCK; k++)
		for (int i = k + 1; i < BLOCK; i++) {
			double f = d[i * BLOCK + k] /= d[k * BLOCK + k];
			for (int j = k + 1; j < BLOCK; j++)
				d[i * BLOCK + j] -= f * d[k * BLOCK + j];
		}
}

static void solve_right(const double *d, double *row) /* row := L(d)^-1 row */
{
	for (int k = 0; k < BLOCK; k++)
		for (int i = k + 1; i < BLOCK; i++)
			for (int j = 0; j < BLOCK; j++)
				row[i * BLOCK + j] -= d[i * BLOCK + k] * row[k * BLOCK + j];
}

static void solve_below(const double *d, double *column) /* column := column U(d)^-1 */
{
	for (int i = 0; i < BLOCK; i++)
		for (int k = 0; k < BLOCK; k++) {
			double f = column[i * BLOCK + k] /= d[k * BLOCK + k];
			for (int j = k + 1; j < BLOCK; j++)
				column[i * BLOCK + j] -= f * d[k * BLOCK + j];
		}
}

static void subtract(double *target, const double *left, const double *right)
{
	for (int i = 0; i < BLOCK; i++)
		for (int k = 0; k < BLOCK; k++) {
			double f = left[i * BLOCK + k];
			for (int j = 0; j < BLOCK; j++)
				target[i * BLOCK + j] -= f * right[k * BLOCK + j];
		}
}

/* Block rows are dealt out in turn, so that all have work to the end. */
static void *body(void *argument)
{
	int index = pointer_as_index(argument);

	for (int k = 0; k < blocks; k++) {
		if (k % threads == index) {
			factor(block_at(k, k));
			for (int j = k + 1; j < blocks; j++)
				solve_right(block_at(k, k), block_at(k, j));
		}
		meet();
		for (int i = k + 1; i < blocks; i++) {
			if (i % threads != index)
				continue;
			solve_below(block_at(k, k), block_at(i, k));
			for (int j = k + 1; j < blocks; j++)
				subtract(block_at(i, j), block_at(i, k), block_at(k, j));
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL;
	double sum = 0, took_s;
	int size;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 1024);
	CHECK(size % BLOCK == 0);
	blocks = size / BLOCK;
	CHECK((matrix = malloc(sizeof *matrix * size * size)));
	for (long i = 0; i < (long)size * size; i++)
		matrix[i] = next_unit(&random) - 0.5;
	for (int i = 0; i < size; i++)
		block_at(i / BLOCK, i / BLOCK)[(i % BLOCK) * (BLOCK + 1)] += size;
	took_s = team_s(body);
	for (int i = 0; i < size; i++)
		sum += block_at(i / BLOCK, i / BLOCK)[(i % BLOCK) * (BLOCK + 1)];
	printf("%.6f %.6f\n", took_s, sum);
	return 0;
}
