// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that takes its time to end: SIGTERM comes twice, to a handler, or to sigwait(3)
 * where the first argument is 1, while other threads compute. For tests of endings.
 */
#include <signal.h>

#include "common.h"

static volatile sig_atomic_t asked;

static void on_term(int number)
{
	CHECK(number == SIGTERM);
	asked++;
}

static void *body(void *unused)
{
	(void)unused;
	while (asked < 2)
		for (volatile int i = 0; i < 100000; i++)
			;
	return NULL;
}

static void wait_for_term(int wanted, const sigset_t *term, const sigset_t *before, int waits)
{
	int number;

	if (waits) {
		CHECK(sigwait(term, &number) == 0 && number == SIGTERM);
		asked++;
	}
	while (asked < wanted)
		CHECK(sigsuspend(before) == -1 && errno == EINTR);
}

int main(int argc, char **argv)
{
	int waits = argument(argc, argv, 1, 0);
	struct sigaction action = { .sa_handler = on_term };
	sigset_t term, before;
	pthread_t handles[3];

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	CHECK(pthread_sigmask(SIG_BLOCK, &term, &before) == 0); /* threads inherit it */
	if (!waits)
		CHECK(sigaction(SIGTERM, &action, NULL) == 0);
	for (int i = 0; i < 3; i++)
		CHECK(pthread_create(&handles[i], NULL, body, NULL) == 0);
	dprintf(1, "ready\n");
	wait_for_term(1, &term, &before, waits);
	dprintf(1, "ending\n");
	wait_for_term(2, &term, &before, waits);
	for (int i = 0; i < 3; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	dprintf(1, "ended\n");
	return 7;
}
