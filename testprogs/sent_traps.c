// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SIGTRAP sent to the process, by kill and by sigqueue, by a thread that then writes memory and
 * waits: each comes, once, with what it was sent with.
 */
#include <signal.h>

#include "common.h"

enum { TIMES = 40 };

static _Alignas(PAGE_BYTES) volatile int shared[PAGE_BYTES / sizeof(int)];
static volatile sig_atomic_t taken, code, value, sender;

static void takes(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	code = info->si_code;
	value = info->si_value.sival_int;
	sender = info->si_pid;
	taken++;
}

static void wait_until(int count)
{
	int64_t end_ns = clock_ns(CLOCK_MONOTONIC) + 30000000000;

	while (taken < count) {
		shared[1]++;
		CHECK(clock_ns(CLOCK_MONOTONIC) < end_ns);
	}
	CHECK(taken == count && sender == getpid());
}

static void *sends(void *unused)
{
	(void)unused;
	for (int i = 0; i < TIMES; i++) {
		CHECK(kill(getpid(), SIGTRAP) == 0);
		wait_until(2 * i + 1);
		CHECK(code == SI_USER);
		CHECK(sigqueue(getpid(), SIGTRAP, (union sigval){ .sival_int = i }) == 0);
		wait_until(2 * i + 2);
		CHECK(code == SI_QUEUE && value == i);
	}
	return NULL;
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = takes, .sa_flags = SA_SIGINFO };
	pthread_t thread;

	CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, sends, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	printf("sent_traps: %d taken\n", (int)taken);
	return 0;
}
