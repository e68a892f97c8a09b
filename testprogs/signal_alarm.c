// SPDX-License-Identifier: GPL-2.0-or-later
/* SIGALRM from an interval timer, handled in main while other threads compute. */
#include <signal.h>
#include <sys/time.h>

#include "common.h"

static volatile sig_atomic_t alarms;
static volatile int stop;
static pthread_t main_thread;
static unsigned long counts[THREADS_MAX];

static void on_alarm(int number)
{
	CHECK(number == SIGALRM && pthread_equal(pthread_self(), main_thread));
	alarms++;
}

static void *body(void *index)
{
	unsigned turns = 0;

	while (!stop) {
		counts[pointer_as_index(index)]++;
		spin_politely(&turns);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 2), wanted = argument(argc, argv, 2, 10);
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } }, off = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm };
	sigset_t alarm_only, before;
	pthread_t handles[THREADS_MAX];

	main_thread = pthread_self();
	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	CHECK(pthread_sigmask(SIG_BLOCK, &alarm_only, &before) == 0); /* threads inherit it */
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, index_as_pointer(i)) == 0);
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	while (alarms < wanted)
		CHECK(sigsuspend(&before) == -1 && errno == EINTR);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	stop = 1;
	for (int i = 0; i < threads; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	printf("signal_alarm: %d alarms\n", wanted);
	return 0;
}
