// SPDX-License-Identifier: GPL-2.0-or-later
/* jacobi THREADS N SWEEPS: a five-point stencil over an N by N grid of doubles. */
#include "bench.h"

static int size, sweeps;
static double *grid[2];

static void *body(void *argument)
{
	int first, end;

	share(pointer_as_index(argument), size - 2, &first, &end);
	for (int sweep = 0; sweep < sweeps; sweep++) {
		const double *from = grid[sweep & 1];
		double *to = grid[!(sweep & 1)];

		for (int i = first + 1; i <= end; i++)
			for (int j = 1; j < size - 1; j++) {
				long at = (long)i * size + j;
				to[at] = 0.25 * (from[at - size] + from[at + size] +
						 from[at - 1] + from[at + 1]);
			}
		meet();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	double sum = 0, took_s;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 2048);
	sweeps = argument(argc, argv, 3, 200);
	for (int k = 0; k < 2; k++) {
		CHECK((grid[k] = calloc((long)size * size, sizeof(double))));
		for (int i = 0; i < size; i++)
			grid[k][i] = grid[k][(long)i * size] = 1.0;
	}
	took_s = team_s(body);
	for (long i = 0; i < (long)size * size; i++)
		sum += grid[sweeps & 1][i];
	printf("%.6f %.9f\n", took_s, sum);
	return 0;
}
