// SPDX-License-Identifier: GPL-2.0-or-later
/* nbody THREADS BODIES STEPS: gravity among all pairs; positions are exchanged each step. */
#include "bench.h"
#include <math.h>

static int count, steps;
typedef struct { double x, y, z, mass; } Body;
typedef struct { double x, y, z; } Speed;
static Body *now, *next;
static Speed *speed;

static void advance(int i)
{
	const double soft = 1e-3, dt = 1e-3;
	double ax = 0, ay = 0, az = 0;

	for (int j = 0; j < count; j++) {
		double dx = now[j].x - now[i].x, dy = now[j].y - now[i].y, dz = now[j].z - now[i].z;
		double r2 = dx * dx + dy * dy + dz * dz + soft;
		double pull = now[j].mass / (r2 * sqrt(r2));
		ax += dx * pull, ay += dy * pull, az += dz * pull;
	}
	speed[i].x += ax * dt, speed[i].y += ay * dt, speed[i].z += az * dt;
	next[i] = (Body){now[i].x + speed[i].x * dt, now[i].y + speed[i].y * dt,
			 now[i].z + speed[i].z * dt, now[i].mass};
}

static void *body(void *argument)
{
	int index = pointer_as_index(argument), first, end;

	share(index, count, &first, &end);
	for (int step = 0; step < steps; step++) {
		for (int i = first; i < end; i++)
			advance(i);
		meet();
		if (index == 0) {
			Body *swap = now;
			now = next;
			next = swap;
		}
		meet();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL;
	double sum = 0, took_s;

	parse_threads(argc, argv);
	count = argument(argc, argv, 2, 4096);
	steps = argument(argc, argv, 3, 10);
	CHECK((now = calloc(count, sizeof *now)) && (next = calloc(count, sizeof *next)));
	CHECK((speed = calloc(count, sizeof *speed)));
	for (int i = 0; i < count; i++)
		now[i] = (Body){next_unit(&random), next_unit(&random), next_unit(&random), 1e-3};
	took_s = team_s(body);
	for (int i = 0; i < count; i++)
		sum += now[i].x + now[i].y + now[i].z;
	printf("%.6f %.9f\n", took_s, sum);
	return 0;
}
