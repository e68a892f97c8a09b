// SPDX-License-Identifier: GPL-2.0-or-later
/* Signals a process sends itself: handled at once, or pending while blocked. */
#include <signal.h>
#include <ucontext.h>

#include "common.h"

#ifdef __x86_64__
enum { INSTRUCTION_POINTER = REG_RIP };
#else
enum { INSTRUCTION_POINTER = REG_EIP };
#endif

static volatile sig_atomic_t handled;
static volatile pid_t sender;

static void on_signal(int number, siginfo_t *info, void *context)
{
	CHECK(number == SIGUSR1 && info->si_signo == SIGUSR1);
	CHECK(((ucontext_t *)context)->uc_mcontext.gregs[INSTRUCTION_POINTER] != 0);
	sender = info->si_pid;
	handled++;
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	sigset_t user1, pending;

	sigemptyset(&user1);
	sigaddset(&user1, SIGUSR1);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(handled == 1 && sender == getpid());
	CHECK(raise(SIGUSR1) == 0 && handled == 2);
	CHECK(sigprocmask(SIG_BLOCK, &user1, NULL) == 0);
	CHECK(raise(SIGUSR1) == 0 && raise(SIGUSR1) == 0 && handled == 2);
	CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
	CHECK(sigprocmask(SIG_UNBLOCK, &user1, NULL) == 0);
	CHECK(handled == 3); /* an ordinary signal is pending once */
	CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR && raise(SIGUSR1) == 0 && handled == 3);
	printf("signal_self: handled %d\n", (int)handled);
	return 0;
}
