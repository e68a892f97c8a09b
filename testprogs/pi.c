// SPDX-License-Identifier: GPL-2.0-or-later
/* Compute bound: pi by the midpoint rule, partial sums added in a fixed order. */
#include "common.h"

static int threads, steps;
static double partial[THREADS_MAX];

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	double sum = 0;

	for (int i = mine; i < steps; i += threads) {
		double x = (i + 0.5) / steps;

		sum += 4.0 / (1.0 + x * x);
	}
	partial[mine] = sum / steps;
	return NULL;
}

int main(int argc, char **argv)
{
	double pi = 0;

	threads = argument(argc, argv, 1, 4);
	steps = argument(argc, argv, 2, 4000000);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		pi += partial[i];
	printf("pi: %.10f\n", pi);
	CHECK(pi > 3.14159265 && pi < 3.14159266);
	return 0;
}
