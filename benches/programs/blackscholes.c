// SPDX-License-Identifier: GPL-2.0-or-later
/* blackscholes THREADS OPTIONS/1000 ROUNDS: prices of European options in closed form. */
#include "bench.h"
#include <math.h>

static int count, rounds;
typedef struct { double spot, strike, rate, volatility, years; } Option;
static Option *options;
static double *price;

static double normal(double x)
{
	return 0.5 * erfc(-x * M_SQRT1_2);
}

static double call_price(const Option *o)
{
	double spread = o->volatility * sqrt(o->years);
	double d1 = (log(o->spot / o->strike) +
		     (o->rate + o->volatility * o->volatility / 2) * o->years) / spread;

	return o->spot * normal(d1) -
	       o->strike * exp(-o->rate * o->years) * normal(d1 - spread);
}

static void *body(void *argument)
{
	int first, end;

	share(pointer_as_index(argument), count, &first, &end);
	for (int round = 0; round < rounds; round++)
		for (int i = first; i < end; i++)
			price[i] = call_price(&options[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL;
	double sum = 0, took_s;

	parse_threads(argc, argv);
	count = argument(argc, argv, 2, 200) * 1000;
	rounds = argument(argc, argv, 3, 100);
	CHECK((options = calloc(count, sizeof *options)) && (price = calloc(count, sizeof *price)));
	for (int i = 0; i < count; i++)
		options[i] = (Option){50 + 100 * next_unit(&random), 50 + 100 * next_unit(&random),
				      0.01 + 0.05 * next_unit(&random),
				      0.1 + 0.5 * next_unit(&random),
				      0.1 + 2 * next_unit(&random)};
	took_s = team_s(body);
	for (int i = 0; i < count; i++)
		sum += price[i];
	printf("%.6f %.6f\n", took_s, sum);
	return 0;
}
