// SPDX-License-Identifier: GPL-2.0-or-later
/* fft THREADS N ROUNDS: two-dimensional FFTs of an N by N grid: rows, transpose, rows. */
#include "bench.h"
#include <complex.h>
#include <math.h>

static int size, rounds;
static double complex *grid, *turned, *roots;

static void transform(double complex *row)
{
	for (int i = 1, j = 0; i < size; i++) {
		int bit = size >> 1;
		for (; j & bit; bit >>= 1)
			j ^= bit;
		j ^= bit;
		if (i < j) {
			double complex swap = row[i];
			row[i] = row[j];
			row[j] = swap;
		}
	}
	for (int length = 2; length <= size; length *= 2)
		for (int start = 0; start < size; start += length)
			for (int k = 0; k < length / 2; k++) {
				double complex *low = &row[start + k], *high = low + length / 2;
				double complex turn = *high * roots[k * (size / length)];
				*high = *low - turn;
				*low += turn;
			}
}

static void *body(void *argument)
{
	int first, end;

	share(pointer_as_index(argument), size, &first, &end);
	for (int round = 0; round < 2 * rounds; round++) {
		double complex *from = round & 1 ? turned : grid, *to = round & 1 ? grid : turned;

		for (int i = first; i < end; i++)
			transform(from + (long)i * size);
		meet();
		for (int i = first; i < end; i++)
			for (int j = 0; j < size; j++)
				to[(long)i * size + j] = from[(long)j * size + i] / sqrt(size);
		meet();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL;
	double sum = 0, took_s;
	long cells;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 1024);
	rounds = argument(argc, argv, 3, 8);
	CHECK(size >= 2 && (size & (size - 1)) == 0);
	cells = (long)size * size;
	CHECK((grid = malloc(cells * sizeof *grid)) && (turned = malloc(cells * sizeof *turned)));
	CHECK((roots = malloc(size / 2 * sizeof *roots)));
	for (int i = 0; i < size / 2; i++)
		roots[i] = cexp(-2 * M_PI * I * i / size);
	for (long i = 0; i < cells; i++)
		grid[i] = next_unit(&random) - 0.5;
	took_s = team_s(body);
	for (long i = 0; i < cells; i++)
		sum += cabs(grid[i]) * (i % 3 + 1);
	printf("%.6f %.6f\n", took_s, sum);
	return 0;
}
