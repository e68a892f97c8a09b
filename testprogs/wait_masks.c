// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Waits that put a mask in force (sigsuspend, ppoll, pselect, epoll_pwait), for a signal that
 * was pending, or that comes meanwhile: its handler runs with that mask, and the one of before
 * is back afterwards. What is there already ends a wait before any signal does. In main and
 * on a thread elsewhere, with an ordinary signal and with those that faults raise.
 */
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/wait.h>

#include "common.h"

static const int SIGNALS[] = {SIGUSR1, SIGSEGV, SIGBUS, SIGTRAP, SIGILL};

enum { COUNT = sizeof SIGNALS / sizeof *SIGNALS, WAITS = 4 };

static sig_atomic_t handled, last;
static sigset_t in_handler;
static int nothing, ready;

static void handler(int number)
{
	handled++;
	last = number;
	pthread_sigmask(SIG_BLOCK, NULL, &in_handler);
}

/* Of the signals above: bit N for the one of index N. */
static int bits(const sigset_t *mask)
{
	int found = 0;

	for (int i = 0; i < COUNT; i++)
		found |= sigismember(mask, SIGNALS[i]) << i;
	return found;
}

static int blocked(void)
{
	sigset_t mask;

	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
	return bits(&mask);
}

static int wait_with(int which, int descriptor, const sigset_t *mask)
{
	struct timespec seconds = {20, 0};
	struct pollfd polled = {descriptor, POLLIN, 0};
	struct epoll_event event;
	fd_set set;

	switch (which) {
	case 0:
		return ppoll(&polled, 1, &seconds, mask);
	case 1:
		FD_ZERO(&set);
		FD_SET(descriptor, &set);
		return pselect(descriptor + 1, &set, NULL, NULL, &seconds, mask);
	case 2:
		return epoll_pwait(descriptor == ready ? ready + 1 : ready + 2, &event, 1, 20000, mask);
	default:
		return sigsuspend(mask);
	}
}

static void *send(void *thread)
{
	usleep(5000);
	CHECK(pthread_kill(*(pthread_t *)thread, last) == 0);
	return NULL;
}

static void one(int at, int which)
{
	int number = SIGNALS[at], before = (1 << COUNT) - 1;
	pthread_t self = pthread_self(), sender;
	sigset_t without, none;

	sigemptyset(&none);
	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &without) == 0);
	sigdelset(&without, number);

	handled = 0;
	CHECK(pthread_kill(self, number) == 0 && handled == 0);
	if (which < 3)
		CHECK(wait_with(which, ready, &none) == 1 && handled == 0 && blocked() == before);
	CHECK(wait_with(which, nothing, &without) == -1 && errno == EINTR);
	CHECK(handled == 1 && last == number && bits(&in_handler) == before);

	CHECK(pthread_kill(self, number) == 0 && handled == 1);
	CHECK(wait_with(which, nothing, &none) == -1 && errno == EINTR);
	CHECK(handled == 2 && bits(&in_handler) == 1 << at && blocked() == before);

	last = number;
	CHECK(pthread_create(&sender, NULL, send, &self) == 0);
	CHECK(wait_with(which, nothing, &without) == -1 && errno == EINTR && handled == 3);
	CHECK(pthread_join(sender, NULL) == 0 && blocked() == before);
}

static void *body(void *index)
{
	sigset_t all;

	stay_on(pointer_as_index(index));
	sigemptyset(&all);
	for (int i = 0; i < COUNT; i++)
		sigaddset(&all, SIGNALS[i]);
	CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
	for (int at = 0; at < COUNT; at++)
		for (int which = 0; which < WAITS; which++) {
			one(at, which);
			stay_on(pointer_as_index(index));
		}
	return NULL;
}

/* A child sends what the program ignores while it waits. */
static void ignore(void)
{
	struct pollfd polled = {nothing, POLLIN, 0};
	int status;
	pid_t child;

	for (int i = 0; i < COUNT; i++)
		CHECK(signal(SIGNALS[i], SIG_IGN) != SIG_ERR);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		for (int i = 0; i < 4 * COUNT; i++) {
			kill(getppid(), SIGNALS[i % COUNT]);
			usleep(1000);
		}
		_exit(0);
	}
	CHECK(poll(&polled, 1, 20) == 0);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void)
{
	struct sigaction action = {.sa_handler = handler};
	struct epoll_event event = {.events = EPOLLIN};
	pthread_t thread;

	ready = eventfd(1, 0);
	CHECK(epoll_create1(0) == ready + 1 && epoll_create1(0) == ready + 2);
	CHECK((nothing = eventfd(0, 0)) == ready + 3);
	CHECK(epoll_ctl(ready + 1, EPOLL_CTL_ADD, ready, &event) == 0);
	CHECK(epoll_ctl(ready + 2, EPOLL_CTL_ADD, nothing, &event) == 0);
	for (int i = 0; i < COUNT; i++)
		CHECK(sigaction(SIGNALS[i], &action, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, body, index_as_pointer(1)) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	body(index_as_pointer(0));
	ignore();
	puts("wait_masks: each wait had its mask");
	return 0;
}
