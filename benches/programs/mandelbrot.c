// SPDX-License-Identifier: GPL-2.0-or-later
/* mandelbrot THREADS N DEPTH: the set on an N by N grid; threads take rows in turn. */
#include "bench.h"

static int size, depth;
static _Atomic int next_row;
static int *image;

static int escape(double cr, double ci)
{
	double r = 0, i = 0;
	int n = 0;

	for (; n < depth && r * r + i * i < 4; n++) {
		double t = r * r - i * i + cr;
		i = 2 * r * i + ci;
		r = t;
	}
	return n;
}

static void *body(void *argument)
{
	int row;

	(void)argument;
	while ((row = next_row++) < size)
		for (int column = 0; column < size; column++)
			image[(long)row * size + column] =
				escape(-2.0 + 3.0 * column / size, -1.5 + 3.0 * row / size);
	return NULL;
}

int main(int argc, char **argv)
{
	long sum = 0;
	double took_s;

	parse_threads(argc, argv);
	size = argument(argc, argv, 2, 1024);
	depth = argument(argc, argv, 3, 1000);
	CHECK((image = malloc(sizeof *image * size * size)));
	took_s = team_s(body);
	for (long i = 0; i < (long)size * size; i++)
		sum += image[i];
	printf("%.6f %ld\n", took_s, sum);
	return 0;
}
