// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promises of POSIX (and of Linux where programs rely on it), one line each:
 *
 *     PROGRAM home|away [TEST...]
 *
 * prints "holds TEST: PROMISE" or "BROKEN TEST: PROMISE (line N)", the same on
 * every run. `home` makes the calls in the main thread, `away` in a thread made
 * for each test, which a placement by load puts on another host. Process-directed
 * signals are for the thread that runs the test: the main thread blocks them.
 */
#ifndef POSIX_H
#define POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct test {
	const char *name;
	void (*run)(void);
};

static const char *running;
static int broken;

static inline void promise(int line, const char *text, int holds)
{
	char buffer[256];
	int length = holds ? snprintf(buffer, sizeof buffer, "holds %s: %s\n", running, text)
			   : snprintf(buffer, sizeof buffer, "BROKEN %s: %s (line %d)\n",
				      running, text, line);

	if (!holds)
		broken = 1;
	/* Not stdio: a test may fork, or end by a signal. */
	if (write(1, buffer, (size_t)length) != length)
		_exit(98);
}

#define PROMISE(text, condition) promise(__LINE__, text, !!(condition))

/* What a test stands on: without it there is nothing to say. */
#define NEED(condition)                                                              \
	do {                                                                         \
		if (!(condition)) {                                                  \
			dprintf(2, "%s:%d: %s: needed %s (errno %d)\n", __FILE__,    \
				__LINE__, running, #condition, errno);               \
			_exit(99);                                                   \
		}                                                                    \
	} while (0)

static inline pthread_t start(void *(*body)(void *), void *argument)
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, body, argument) == 0);
	return thread;
}

static inline void *join(pthread_t thread)
{
	void *value = NULL;

	NEED(pthread_join(thread, &value) == 0);
	return value;
}

static inline void pause_ms(int ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000L};

	while (nanosleep(&time, &time) != 0)
		;
}

static inline int64_t now_ns(clockid_t clock)
{
	struct timespec now;

	NEED(clock_gettime(clock, &now) == 0);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline struct timespec in_ms(clockid_t clock, int ms)
{
	int64_t at = now_ns(clock) + ms * 1000000LL;

	return (struct timespec){at / 1000000000, at % 1000000000};
}

/* Waits, at most ten seconds, until another thread has set a flag. */
static inline int reached(atomic_int *flag, int value)
{
	for (int i = 0; i < 10000; i++) {
		if (atomic_load(flag) >= value)
			return 1;
		pause_ms(1);
	}
	return 0;
}

/* The status that a child ends with which runs `body`: as waitpid gives it. */
static inline int status_of(void (*body)(void))
{
	int status = -1;
	pid_t child = fork();

	NEED(child >= 0);
	if (child == 0) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		body();
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0)
		NEED(errno == EINTR);
	return status;
}

static inline int killed_by(int status, int number)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == number;
}

static inline void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	sigemptyset(&action.sa_mask);
	NEED(sigaction(number, &action, NULL) == 0);
}

static inline sigset_t set_of(int number)
{
	sigset_t set;

	sigemptyset(&set);
	if (number)
		sigaddset(&set, number);
	return set;
}

static inline void mask(int how, int number)
{
	sigset_t set = set_of(number);

	NEED(pthread_sigmask(how, &set, NULL) == 0);
}

static void *run_test(void *pointer)
{
	const struct test *test = pointer;
	sigset_t none;

	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	running = test->name;
	test->run();
	return NULL;
}

static int run_tests(int argc, char **argv, const struct test *tests, size_t count)
{
	int away = argc > 1 && strcmp(argv[1], "away") == 0;
	sigset_t all;

	if (away) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	}
	for (size_t i = 0; i < count; i++) {
		int wanted = argc <= 2;

		for (int j = 2; j < argc; j++)
			wanted |= strcmp(argv[j], tests[i].name) == 0;
		if (!wanted)
			continue;
		if (away)
			join(start(run_test, (void *)&tests[i]));
		else
			run_test((void *)&tests[i]);
	}
	return broken;
}

#define RUN_TESTS(tests) run_tests(argc, argv, tests, sizeof(tests) / sizeof(tests)[0])

#endif
