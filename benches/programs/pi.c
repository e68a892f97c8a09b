// SPDX-License-Identifier: GPL-2.0-or-later
/* pi THREADS STEPS/1000000: the integral of 4 / (1 + x^2) from 0 to 1. */
#include "bench.h"

static long steps;
static struct { double sum; char apart[PAGE_BYTES - sizeof(double)]; } part[THREADS_MAX];

static void *body(void *argument)
{
	int index = pointer_as_index(argument);
	double width = 1.0 / steps, sum = 0;

	for (long i = steps * index / threads; i < steps * (index + 1) / threads; i++) {
		double x = (i + 0.5) * width;
		sum += 4.0 / (1.0 + x * x);
	}
	part[index].sum = sum * width;
	return NULL;
}

int main(int argc, char **argv)
{
	double sum = 0, took_s;

	parse_threads(argc, argv);
	steps = argument(argc, argv, 2, 300) * 1000000L;
	took_s = team_s(body);
	for (int i = 0; i < threads; i++)
		sum += part[i].sum;
	printf("%.6f %.9f\n", took_s, sum);
	return 0;
}
