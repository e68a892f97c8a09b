// SPDX-License-Identifier: GPL-2.0-or-later
/* Matrix multiply by rows; each row is checked against a vector product. */
#include "common.h"

enum { SIZE_MAX_ROWS = 256 };

static double a[SIZE_MAX_ROWS][SIZE_MAX_ROWS], b[SIZE_MAX_ROWS][SIZE_MAX_ROWS];
static double c[SIZE_MAX_ROWS][SIZE_MAX_ROWS];
static int threads, size;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int i = mine * size / threads; i < (mine + 1) * size / threads; i++)
		for (int k = 0; k < size; k++)
			for (int j = 0; j < size; j++)
				c[i][j] += a[i][k] * b[k][j];
	return NULL;
}

int main(int argc, char **argv)
{
	double trace = 0;

	threads = argument(argc, argv, 1, 4);
	size = argument(argc, argv, 2, 128);
	CHECK(size <= SIZE_MAX_ROWS);
	for (int i = 0; i < size; i++)
		for (int j = 0; j < size; j++) {
			a[i][j] = (i * 7 + j * 3) % 11; /* small integers: sums are exact */
			b[i][j] = (i * 5 + j * 2) % 13;
		}
	run_threads(threads, body);
	for (int i = 0; i < size; i++) {
		double row = 0, expected = 0;

		for (int k = 0; k < size; k++) {
			double weight = 0;

			for (int j = 0; j < size; j++)
				weight += b[k][j];
			expected += a[i][k] * weight;
			row += c[i][k];
		}
		CHECK(row == expected);
		trace += c[i][i];
	}
	printf("matmul: trace %.0f corner %.0f\n", trace, c[size - 1][size - 1]);
	return 0;
}
