// SPDX-License-Identifier: GPL-2.0-or-later
/* A chain of threads joined by pipes: each passes on what it reads, plus one. */
#include "common.h"

static int pipes[THREADS_MAX + 1][2];
static int messages;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int i = 0; i < messages; i++) {
		long value;

		CHECK(read(pipes[mine][0], &value, sizeof value) == sizeof value);
		value++;
		CHECK(write(pipes[mine + 1][1], &value, sizeof value) == sizeof value);
	}
	CHECK(close(pipes[mine + 1][1]) == 0);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	pthread_t handles[THREADS_MAX];
	long sum = 0, value;

	messages = argument(argc, argv, 2, 40);
	CHECK(threads < THREADS_MAX);
	for (int i = 0; i <= threads; i++)
		CHECK(pipe(pipes[i]) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, index_as_pointer(i)) == 0);
	for (long i = 0; i < messages; i++)
		CHECK(write(pipes[0][1], &i, sizeof i) == sizeof i);
	for (int i = 0; i < messages; i++) {
		CHECK(read(pipes[threads][0], &value, sizeof value) == sizeof value);
		CHECK(value == i + threads);
		sum += value;
	}
	CHECK(read(pipes[threads][0], &value, sizeof value) == 0); /* end of file */
	for (int i = 0; i < threads; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	printf("pipe_threads: %ld\n", sum);
	return 0;
}
