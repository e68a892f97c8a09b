// SPDX-License-Identifier: GPL-2.0-or-later
/* Sleeping and polling in all threads at once: each waits at least as long as asked. */
#include <poll.h>
#include <sys/select.h>

#include "common.h"

enum { MS = 1000000 };

static int pipe_ends[2];
static pthread_barrier_t barrier;
static int rounds;

static void check_slept(int64_t since_ns, int64_t at_least_ns)
{
	int64_t slept_ns = clock_ns(CLOCK_MONOTONIC) - since_ns;

	CHECK(slept_ns >= at_least_ns && slept_ns < 20000LL * MS);
}

static void *body(void *index)
{
	struct pollfd never = { pipe_ends[0], POLLIN, 0 };
	struct timespec nap = { 0, 3 * MS };
	char byte;

	for (int i = 0; i < rounds; i++) {
		int64_t start_ns = clock_ns(CLOCK_MONOTONIC);

		CHECK(nanosleep(&nap, NULL) == 0);
		check_slept(start_ns, 3 * MS);
		start_ns = clock_ns(CLOCK_MONOTONIC);
		CHECK(poll(&never, 1, 3) == 0 && never.revents == 0);
		check_slept(start_ns, 2 * MS); /* poll may round to its clock's granule */
		start_ns = clock_ns(CLOCK_MONOTONIC);
		CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL) == 0);
		check_slept(start_ns, 3 * MS);
		struct timeval wait = { 0, 3000 };
		start_ns = clock_ns(CLOCK_MONOTONIC);
		CHECK(select(0, NULL, NULL, NULL, &wait) == 0);
		check_slept(start_ns, 2 * MS);
	}
	pthread_barrier_wait(&barrier);
	if (pointer_as_index(index) == 0) {
		CHECK(write(pipe_ends[1], "x", 1) == 1);
	} else if (pointer_as_index(index) == 1) {
		CHECK(poll(&never, 1, -1) == 1 && never.revents == POLLIN);
		CHECK(read(pipe_ends[0], &byte, 1) == 1 && byte == 'x');
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	rounds = argument(argc, argv, 2, 3);
	CHECK(threads >= 2 && pipe(pipe_ends) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	printf("poll_sleep: %d threads slept\n", threads);
	return 0;
}
