// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SIGSEGV and its like, blocked: what handlers find in their frames, what is in force
 * in them and after them, and, at last, the end by a fault while it is blocked.
 */
#include <signal.h>
#include <sys/resource.h>
#include <ucontext.h>

#include "common.h"

static volatile sig_atomic_t seen_in_frame, seen_in_force, runs;
static volatile int *volatile nowhere = (int *)16;

static int blocked(int number)
{
	sigset_t now;

	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0);
	return sigismember(&now, number);
}

static void with_context(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	seen_in_frame = sigismember(&((ucontext_t *)context)->uc_sigmask, SIGSEGV);
	seen_in_force = blocked(SIGSEGV);
	runs++;
}

static void without_context(int number)
{
	(void)number;
	seen_in_force = blocked(SIGSEGV);
	runs++;
}

static void unblocks_in_frame(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	sigdelset(&((ucontext_t *)context)->uc_sigmask, SIGBUS);
	runs++;
}

static void set_mask(int how, int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	CHECK(pthread_sigmask(how, &set, NULL) == 0);
}

static void handle(int with_info, void (*handler)(), int masked)
{
	struct sigaction action = { .sa_flags = with_info ? SA_SIGINFO : 0 };

	action.sa_handler = (void (*)(int))handler;
	if (masked)
		sigaddset(&action.sa_mask, masked);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	runs = 0;
	seen_in_frame = seen_in_force = -1;
	CHECK(raise(SIGUSR1) == 0 && runs == 1);
}

static void *body(void *unused)
{
	(void)unused;
	handle(1, (void (*)())with_context, 0);
	CHECK(seen_in_frame == 0 && seen_in_force == 0);
	handle(0, (void (*)())without_context, SIGSEGV);
	CHECK(seen_in_force == 1 && !blocked(SIGSEGV));
	handle(1, (void (*)())with_context, SIGSEGV);
	CHECK(seen_in_frame == 0 && seen_in_force == 1 && !blocked(SIGSEGV));
	set_mask(SIG_BLOCK, SIGSEGV);
	handle(0, (void (*)())without_context, 0);
	CHECK(seen_in_force == 1 && blocked(SIGSEGV));
	handle(1, (void (*)())with_context, 0);
	CHECK(seen_in_frame == 1 && seen_in_force == 1 && blocked(SIGSEGV));
	set_mask(SIG_BLOCK, SIGBUS);
	handle(1, (void (*)())unblocks_in_frame, 0);
	CHECK(!blocked(SIGBUS) && blocked(SIGSEGV));
	dprintf(1, "forced_masks: as they should be\n");
	*nowhere = 1;
	return NULL;
}

static void survives(int number)
{
	(void)number;
	_exit(98); /* it is blocked: no handler may run */
}

int main(void)
{
	CHECK(setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }) == 0);
	CHECK(signal(SIGSEGV, survives) != SIG_ERR);
	run_threads(1, body);
	return 0;
}
