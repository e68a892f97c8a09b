// SPDX-License-Identifier: GPL-2.0-or-later
/* Signals to threads that do nothing but read the clock, wherever in it they are. */
#include <signal.h>
#include <stdatomic.h>

#include "common.h"

static volatile sig_atomic_t handled;
static atomic_int reading;

static void on_signal(int number)
{
	(void)number;
	handled++;
}

static void *body(void *unused)
{
	int64_t last_ns = 0;
	int before = handled;

	(void)unused;
	atomic_store(&reading, 1);
	while (handled == before) {
		int64_t now_ns = clock_ns(CLOCK_MONOTONIC);

		CHECK(now_ns >= last_ns);
		last_ns = now_ns;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int rounds = argument(argc, argv, 1, 30);

	CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
	for (int i = 0; i < rounds; i++) {
		pthread_t thread;

		atomic_store(&reading, 0);
		CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
		while (!atomic_load(&reading))
			usleep(100);
		CHECK(pthread_kill(thread, SIGUSR1) == 0);
		CHECK(pthread_join(thread, NULL) == 0);
	}
	printf("clock_signals: %d\n", (int)handled);
	return 0;
}
