// SPDX-License-Identifier: GPL-2.0-or-later
/* Copies standard input to standard output, read by one thread, written by another. */
#include "common.h"

static int ends[2];

static void copy(int from, int to)
{
	char buffer[5000];
	ssize_t got;

	while ((got = read(from, buffer, sizeof buffer)) > 0)
		for (ssize_t done = 0; done < got;) {
			ssize_t wrote = write(to, buffer + done, (size_t)(got - done));

			CHECK(wrote > 0);
			done += wrote;
		}
	CHECK(got == 0);
}

static void *body(void *index)
{
	if (pointer_as_index(index) == 0) {
		copy(0, ends[1]);
		CHECK(close(ends[1]) == 0);
	} else {
		copy(ends[0], 1);
	}
	return NULL;
}

int main(void)
{
	CHECK(pipe(ends) == 0);
	run_threads(2, body);
	dprintf(2, "echo: end of input\n");
	return 0;
}
