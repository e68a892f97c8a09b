// SPDX-License-Identifier: GPL-2.0-or-later
/* RLIMIT_CPU of time that another thread uses: a signal at the soft limit, the end at the hard. */
#include <signal.h>
#include <sys/resource.h>

#include "common.h"

static volatile sig_atomic_t told;

static void on_limit(int number)
{
	struct rlimit limit;

	CHECK(number == SIGXCPU);
	CHECK(clock_ns(CLOCK_PROCESS_CPUTIME_ID) >= 500000000LL); /* it goes by ticks */
	CHECK(getrlimit(RLIMIT_CPU, &limit) == 0);
	CHECK(limit.rlim_cur >= 2 && limit.rlim_max == 3); /* the kernel has raised it */
	told++;
}

static void *body(void *unused)
{
	(void)unused;
	for (;;)
		dawdle();
	return NULL;
}

int main(void)
{
	struct rlimit limit = { 1, 3 };
	struct sigaction action = { .sa_handler = on_limit, .sa_flags = SA_RESTART };
	pthread_t thread;

	CHECK(setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }) == 0);
	CHECK(sigaction(SIGXCPU, &action, NULL) == 0);
	CHECK(setrlimit(RLIMIT_CPU, &limit) == 0);
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	while (told == 0)
		usleep(1000);
	CHECK(printf("cpu_limit: told\n") > 0 && fflush(stdout) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	return 0;
}
