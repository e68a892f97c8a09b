// SPDX-License-Identifier: GPL-2.0-or-later
/* clone3 (and clone with CLONE_PIDFD) in main, elsewhere, and in a child. */
#include <linux/types.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#define CLEAR_SIGHAND 0x100000000ULL

struct arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup, later;
};

enum { FIRST = 64, KNOWN = 88, STACK_BYTES = 65536 };

static _Alignas(64) char stack[STACK_BYTES];

static long make(struct arguments *wanted, size_t size)
{
	return syscall(SYS_clone3, wanted, size);
}

static void ends_with(pid_t child, int status)
{
	int got;

	CHECK(waitpid(child, &got, __WALL) == child && WIFEXITED(got) && WEXITSTATUS(got) == status);
}

static void refusals(void)
{
	struct arguments wanted = {.exit_signal = SIGCHLD};

	CHECK(make(NULL, 0) == -1 && errno == EINVAL);
	CHECK(make(&wanted, FIRST - 1) == -1 && errno == EINVAL);
	CHECK(make(&wanted, 5000) == -1 && errno == E2BIG);
	CHECK(make((void *)16, FIRST) == -1 && errno == EFAULT);
	wanted.later = 1;
	CHECK(make(&wanted, sizeof wanted) == -1 && errno == E2BIG);
	wanted = (struct arguments){.exit_signal = 99};
	CHECK(make(&wanted, KNOWN) == -1 && errno == EINVAL);
	wanted = (struct arguments){.flags = CLONE_THREAD};
	CHECK(make(&wanted, KNOWN) == -1 && errno == EINVAL);
	wanted = (struct arguments){.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
	CHECK(make(&wanted, KNOWN) == -1 && errno == EFAULT);
}

static void processes(void)
{
	struct arguments wanted = {.exit_signal = SIGCHLD};
	struct sigaction action;
	struct pollfd ended = {.events = POLLIN};
	int pidfd = -1, parent_tid = 0, child_tid = 0;
	long child = make(&wanted, FIRST);

	if (child == 0)
		_exit(1);
	ends_with(child, 1);

	wanted = (struct arguments){
		.flags = CLONE_PIDFD | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLEAR_SIGHAND,
		.pidfd = (uintptr_t)&pidfd, .parent_tid = (uintptr_t)&parent_tid,
		.child_tid = (uintptr_t)&child_tid, .exit_signal = SIGCHLD,
	};
	child = make(&wanted, KNOWN);
	if (child == 0) {
		int right = child_tid == getpid();

		right += 2 * (sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
		right += 4 * (sigaction(SIGSEGV, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
		right += 8 * (sigaction(SIGBUS, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
		_exit(right);
	}
	ended.fd = pidfd;
	CHECK(pidfd >= 0 && parent_tid == child && child_tid == 0);
	CHECK(poll(&ended, 1, 20000) == 1 && close(pidfd) == 0);
	ends_with(child, 15);

	wanted = (struct arguments){.exit_signal = 0};
	child = make(&wanted, KNOWN);
	if (child == 0)
		_exit(2);
	CHECK(waitpid(child, NULL, 0) == -1 && errno == ECHILD);
	ends_with(child, 2);
}

static int leave(void *status)
{
	return pointer_as_index(status);
}

static void by_clone(void)
{
	int pidfd = -1;
	pid_t child = clone(leave, stack + STACK_BYTES, CLONE_PIDFD | SIGCHLD, index_as_pointer(3), &pidfd);

	CHECK(child > 0 && pidfd >= 0 && close(pidfd) == 0);
	ends_with(child, 3);
	CHECK(clone(leave, stack + STACK_BYTES, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL,
		    &pidfd) == -1 && errno == EINVAL);
}

/* What a child makes is traced as well, whatever it wants: its calls work. */
static void in_a_child(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		struct arguments wanted = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
		long grandchild = make(&wanted, KNOWN);
		cpu_set_t all;

		if (grandchild == 0)
			_exit(sched_getaffinity(0, sizeof all, &all) == 0 ? 4 : 5);
		ends_with(grandchild, 4);
		_exit(6);
	}
	ends_with(child, 6);
}

static void *body(void *index)
{
	stay_on(pointer_as_index(index));
	refusals();
	processes();
	by_clone();
	in_a_child();
	return NULL;
}

static void nobody(int number)
{
	(void)number;
}

int main(void)
{
	pthread_t thread;

	CHECK(signal(SIGUSR1, nobody) != SIG_ERR && signal(SIGSEGV, nobody) != SIG_ERR);
	CHECK(signal(SIGBUS, SIG_IGN) != SIG_ERR);
	CHECK(pthread_create(&thread, NULL, body, index_as_pointer(1)) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	body(index_as_pointer(0));
	puts("new_tasks: all made");
	return 0;
}
