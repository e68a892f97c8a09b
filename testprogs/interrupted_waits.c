// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signals that nobody handles end no wait and lengthen none, however many come; one with a
 * handler ends a sleep, and the next lasts as long as it should.
 */
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "common.h"

enum { MS = 1000000, WAIT_MS = 120, EVERY_MS = 40, TIMES = 200, KINDS = 10 };

static const struct timespec length = { 0, WAIT_MS * MS };
static volatile int waiting;
static volatile sig_atomic_t handled;
static pthread_t waiter;
static int epoll, semaphores;
static uint32_t word;
static int sockets[2];

static void count(int number)
{
	(void)number;
	handled++;
}

static int wait_once(int kind)
{
	struct sembuf take = { 0, -1, 0 };
	struct epoll_event event;
	sigset_t set;

	switch (kind) {
	case 0:
		return nanosleep(&length, NULL);
	case 1:
		return clock_nanosleep(CLOCK_MONOTONIC, 0, &length, NULL);
	case 2:
		return poll(NULL, 0, WAIT_MS);
	case 3:
		return epoll_wait(epoll, &event, 1, WAIT_MS);
	case 4:
		return semtimedop(semaphores, &take, 1, &length) == -1 && errno == EAGAIN ? 0 : -1;
	case 5:
	case 6:
		return syscall(SYS_futex, &word, FUTEX_WAIT | (kind == 5) * FUTEX_PRIVATE_FLAG, 0,
			       &length, NULL, 0) == -1 && errno == ETIMEDOUT ? 0 : -1;
	case 7:
		return recv(sockets[0], &event, 1, 0) == -1 && errno == EAGAIN ? 0 : -1;
	case 8:
		return read(sockets[0], &event, 1) == -1 && errno == EAGAIN ? 0 : -1;
	default:
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		return sigtimedwait(&set, NULL, &length) == -1 && errno == EAGAIN ? 0 : -1;
	}
}

static void *wait_for_all(void *unused)
{
	(void)unused;
	for (int kind = 0; kind < KINDS; kind++) {
		int64_t start_ns = clock_ns(CLOCK_MONOTONIC), slept_ns;

		CHECK(wait_once(kind) == 0);
		slept_ns = clock_ns(CLOCK_MONOTONIC) - start_ns;
		CHECK(slept_ns >= (WAIT_MS - 10) * MS && slept_ns < 6000LL * MS);
	}
	waiting = 0;
	return NULL;
}

static void *disturb(void *with)
{
	const int *number = with;
	struct timespec pause = { 0, EVERY_MS * MS };

	for (int i = 0; i < TIMES && waiting; i++) {
		CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == 0);
		CHECK(pthread_kill(waiter, *number) == 0);
	}
	return NULL;
}

static void interrupted_by_a_handler(void)
{
	struct timespec left = { 0, 0 }, twice = { 0, 2 * WAIT_MS * MS };
	struct itimerval soon = { { 0, 0 }, { 0, WAIT_MS * 1000 } };
	int64_t start_ns;

	for (int i = 0; i < 2; i++) {
		if (i == 0)
			CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
		start_ns = clock_ns(CLOCK_MONOTONIC);
		if (i == 0)
			CHECK(nanosleep(&twice, &left) == -1 && errno == EINTR);
		else
			CHECK(nanosleep(&twice, &left) == 0);
		CHECK(clock_ns(CLOCK_MONOTONIC) - start_ns >= (2 - !i) * (WAIT_MS - 10) * MS);
	}
	CHECK(handled == 1);
}

int main(void)
{
	static const int unhandled[] = { SIGWINCH, SIGCHLD, SIGUSR1 };
	struct sigaction action = { .sa_handler = count };
	struct timeval patience = { 0, WAIT_MS * 1000 };
	sigset_t awaited;
	pthread_t other;

	CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR2);
	CHECK(pthread_sigmask(SIG_BLOCK, &awaited, NULL) == 0);
	CHECK((epoll = epoll_create1(0)) >= 0);
	CHECK((semaphores = semget(IPC_PRIVATE, 1, 0600)) >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	CHECK(setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
	interrupted_by_a_handler();
	waiting = 1;
	waiter = pthread_self();
	CHECK(pthread_create(&other, NULL, disturb, (void *)&unhandled[0]) == 0);
	wait_for_all(NULL);
	CHECK(pthread_join(other, NULL) == 0);
	waiting = 1;
	CHECK(pthread_create(&waiter, NULL, wait_for_all, NULL) == 0);
	disturb((void *)&unhandled[1]);
	CHECK(pthread_join(waiter, NULL) == 0);
	waiting = 1;
	waiter = pthread_self();
	CHECK(pthread_create(&other, NULL, disturb, (void *)&unhandled[2]) == 0);
	wait_for_all(NULL);
	CHECK(pthread_join(other, NULL) == 0);
	CHECK(semctl(semaphores, 0, IPC_RMID) == 0);
	puts("interrupted_waits: all as long as they should be");
	return 0;
}
