// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SIGSEGV and its like, sent while blocked: they are pending, and whoever waits for them gets
 * them, once, with what they were sent with. And what SA_RESETHAND leaves of an action.
 */
#include <signal.h>

#include "common.h"

enum { FORCED = 4 };

static const int forced[FORCED] = { SIGTRAP, SIGSEGV, SIGBUS, SIGILL };
static const struct timespec none, soon = { 20, 0 };
static pthread_barrier_t both;
static volatile sig_atomic_t runs;

static void counts(int number)
{
	(void)number;
	runs++;
}

static sigset_t only(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	return set;
}

static int pending(int number)
{
	sigset_t set;

	CHECK(sigpending(&set) == 0);
	return sigismember(&set, number);
}

static void block_all(void)
{
	for (int i = 0; i < FORCED; i++) {
		sigset_t set = only(forced[i]);

		CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	}
}

static void taken_by_its_thread(int number)
{
	struct timespec wrong = { 0, -1 };
	sigset_t set = only(number), other = only(SIGUSR1);
	siginfo_t info;
	int taken;

	CHECK(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
	CHECK(raise(number) == 0 && raise(number) == 0 && pending(number));
	CHECK(sigtimedwait(&other, &info, &none) == -1 && errno == EAGAIN);
	CHECK(sigtimedwait(&set, &info, &wrong) == -1 && errno == EINVAL);
	CHECK(sigtimedwait(&set, &info, &soon) == number);
	CHECK(info.si_signo == number && info.si_code == SI_USER && info.si_pid == getpid());
	CHECK(!pending(number));
	CHECK(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);

	CHECK(sigqueue(getpid(), number, (union sigval){ .sival_int = 42 }) == 0);
	CHECK(sigwaitinfo(&set, &info) == number);
	CHECK(info.si_code == SI_QUEUE && info.si_value.sival_int == 42);
	CHECK(kill(getpid(), number) == 0 && sigwait(&set, &taken) == 0 && taken == number);
}

static void lowest_first(void)
{
	sigset_t set = only(SIGSEGV);

	sigaddset(&set, SIGBUS);
	CHECK(raise(SIGSEGV) == 0 && raise(SIGBUS) == 0);
	CHECK(sigtimedwait(&set, NULL, &none) == SIGBUS);
	CHECK(sigtimedwait(&set, NULL, &none) == SIGSEGV);
}

static void resets_its_handler_alone(void)
{
	struct sigaction action = { .sa_handler = counts, .sa_flags = SA_RESETHAND | SA_RESTART };
	struct sigaction now;

	sigaddset(&action.sa_mask, SIGUSR2);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	runs = 0;
	CHECK(raise(SIGUSR1) == 0 && runs == 1);
	CHECK(sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
	CHECK(!(~now.sa_flags & action.sa_flags));
	CHECK(sigismember(&now.sa_mask, SIGUSR2));
}

static void *body(void *unused)
{
	(void)unused;
	for (int i = 0; i < FORCED; i++)
		taken_by_its_thread(forced[i]);
	lowest_first();
	resets_its_handler_alone();
	return NULL;
}

/* Waits, before and after the signals come, for what is sent to the process. */
static void *waiter(void *index)
{
	int number = forced[pointer_as_index(index)];
	sigset_t set = only(number);
	siginfo_t info;

	pthread_barrier_wait(&both);
	CHECK(sigtimedwait(&set, &info, &soon) == number && info.si_code == SI_USER);
	pthread_barrier_wait(&both);
	pthread_barrier_wait(&both); /* it has been sent */
	CHECK(sigtimedwait(&set, &info, &soon) == number && info.si_code == SI_USER);
	return NULL;
}

static void taken_by_another(int index)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, waiter, index_as_pointer(index)) == 0);
	pthread_barrier_wait(&both);
	if (index % 2)
		usleep(20000); /* it waits, most probably */
	CHECK(kill(getpid(), forced[index]) == 0);
	pthread_barrier_wait(&both);
	CHECK(kill(getpid(), forced[index]) == 0);
	pthread_barrier_wait(&both);
	CHECK(pthread_join(thread, NULL) == 0 && !pending(forced[index]));
}

int main(void)
{
	block_all();
	CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
	body(NULL);
	for (int i = 0; i < 2; i++)
		run_threads(1, body);
	for (int i = 0; i < FORCED; i++)
		taken_by_another(i);
	printf("forced_waits: taken\n");
	return 0;
}
