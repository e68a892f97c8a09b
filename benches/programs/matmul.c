// SPDX-License-Identifier: GPL-2.0-or-later
/* matmul THREADS N: the product of two N by N matrices of doubles, by rows, in blocks. */
#include "bench.h"

enum { BLOCK = 64 };
static int size;
static double *a, *b, *c;

static void *body(void *argument)
{
	int first, end;

	share(pointer_as_index(argument), size, &first, &end);
	for (int k0 = 0; k0 < size; k0 += BLOCK)
		for (int i = first; i < end; i++)
			for (int k = k0; k < k0 + BLOCK && k < size; k++) {
				double factor = a[(long)i * size + k];
				for (int j = 0; j < size; j++)
					c[(long)i * size + j] += factor * b[(long)k * size + j];
			}
	return NULL;
}

int main(int argc, char **argv)
{
	double sum = 0, took_s;
	long cells;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 1024);
	cells = (long)size * size;
	CHECK((a = malloc(cells * sizeof *a)) && (b = malloc(cells * sizeof *b)));
	CHECK((c = calloc(cells, sizeof *c)));
	for (long i = 0; i < cells; i++) {
		a[i] = i % 7 - 3;
		b[i] = i % 5 - 2;
	}
	took_s = team_s(body);
	for (long i = 0; i < cells; i++)
		sum += c[i] * (i % 3 + 1);
	printf("%.6f %.6f\n", took_s, sum);
	return 0;
}
