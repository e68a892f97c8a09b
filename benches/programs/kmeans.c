// SPDX-License-Identifier: GPL-2.0-or-later
/* kmeans THREADS POINTS/1000 ROUNDS: Lloyd's algorithm, sums added up under a lock. */
#include "bench.h"

enum { DIMENSIONS = 8, CLUSTERS = 32 };
static int count, rounds;
static float (*points)[DIMENSIONS];
static double center[CLUSTERS][DIMENSIONS];
static long total[CLUSTERS][DIMENSIONS + 1]; /* fixed point: sums do not depend on their order */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int nearest(const float *point)
{
	double best = 1e300;
	int at = 0;

	for (int c = 0; c < CLUSTERS; c++) {
		double distance = 0;
		for (int d = 0; d < DIMENSIONS; d++) {
			double apart = point[d] - center[c][d];
			distance += apart * apart;
		}
		if (distance < best) {
			best = distance;
			at = c;
		}
	}
	return at;
}

static void move_centers(void)
{
	for (int c = 0; c < CLUSTERS; c++) {
		for (int d = 0; d < DIMENSIONS && total[c][DIMENSIONS]; d++)
			center[c][d] = total[c][d] / 1048576.0 / total[c][DIMENSIONS];
		memset(total[c], 0, sizeof total[c]);
	}
}

static void *body(void *argument)
{
	int index = pointer_as_index(argument), first, end;

	share(index, count, &first, &end);
	for (int round = 0; round < rounds; round++) {
		long own[CLUSTERS][DIMENSIONS + 1] = {{0}};

		for (int i = first; i < end; i++) {
			int c = nearest(points[i]);
			for (int d = 0; d < DIMENSIONS; d++)
				own[c][d] += (long)(points[i][d] * 1048576.0f);
			own[c][DIMENSIONS]++;
		}
		pthread_mutex_lock(&lock);
		for (int c = 0; c < CLUSTERS; c++)
			for (int d = 0; d <= DIMENSIONS; d++)
				total[c][d] += own[c][d];
		pthread_mutex_unlock(&lock);
		meet();
		if (index == 0)
			move_centers();
		meet();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL;
	double sum = 0, took_s;

	parse_threads(argc, argv);
	count = argument(argc, argv, 2, 400) * 1000;
	rounds = argument(argc, argv, 3, 20);
	CHECK((points = malloc(count * sizeof *points)));
	for (int i = 0; i < count; i++)
		for (int d = 0; d < DIMENSIONS; d++)
			points[i][d] = (float)next_unit(&random) + (float)(i % CLUSTERS % 4);
	for (int c = 0; c < CLUSTERS; c++)
		for (int d = 0; d < DIMENSIONS; d++)
			center[c][d] = points[c][d];
	took_s = team_s(body);
	for (int c = 0; c < CLUSTERS; c++)
		for (int d = 0; d < DIMENSIONS; d++)
			sum += center[c][d] * (c + 1);
	printf("%.6f %.9f\n", took_s, sum);
	return 0;
}
