// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compute bound: the Mandelbrot set, rows drawn from a counter under a mutex.
 * A third argument other than 0 prints the picture (the demo does).
 */
#include "common.h"

enum { WIDTH = 78, HEIGHT = 32 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int next_row, depth;
static long total;
static char picture[HEIGHT][WIDTH + 1];

static int escape_time(double re, double im)
{
	double x = 0, y = 0;
	int n = 0;

	while (n < depth && x * x + y * y <= 4) {
		double t = x * x - y * y + re;

		y = 2 * x * y + im;
		x = t;
		n++;
	}
	return n;
}

static void *body(void *unused)
{
	static const char shades[] = " .:-=+*%#";

	(void)unused;
	for (;;) {
		long sum = 0;

		pthread_mutex_lock(&lock);
		int row = next_row++;
		pthread_mutex_unlock(&lock);
		if (row >= HEIGHT)
			return NULL;
		for (int column = 0; column < WIDTH; column++) {
			int n = escape_time(column * 3.2 / WIDTH - 2.2, row * 2.4 / HEIGHT - 1.2);

			picture[row][column] = n == depth ? '@' : shades[n < 24 ? n / 3 : 8];
			sum += n;
		}
		pthread_mutex_lock(&lock);
		total += sum;
		pthread_mutex_unlock(&lock);
	}
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	unsigned hash = 2166136261u;

	depth = argument(argc, argv, 2, 20000);
	run_threads(threads, body);
	for (int row = 0; row < HEIGHT; row++) {
		for (int column = 0; column < WIDTH; column++)
			hash = (hash ^ (unsigned char)picture[row][column]) * 16777619u;
		if (argument(argc, argv, 3, 0))
			printf("%s\n", picture[row]);
	}
	printf("mandelbrot: iterations %ld picture %08x\n", total, hash);
	return 0;
}
