// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tasks made with CLONE_UNTRACED, as LeakSanitizer does: one shares the memory of each
 * thread, one that of a forked child. All calls are theirs too.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "common.h"

enum { SHARING = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED, STACK_BYTES = 65536 };

static struct {
	_Alignas(64) char stack[STACK_BYTES];
	int said;
} tasks[5];

static int look(void *index)
{
	int mine = pointer_as_index(index);
	int file = open("/proc/self/status", O_RDONLY);
	char line[8];
	cpu_set_t all;

	if (file < 0 || read(file, line, 5) != 5 || memcmp(line, "Name:", 5) != 0)
		return 1;
	if (close(file) != 0 || sched_getaffinity(0, sizeof all, &all) != 0)
		return 2;
	tasks[mine].said = mine + 7;
	return 3;
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	int status;
	pid_t task;

	for (int round = 0; round < 3; round++) {
		tasks[mine].said = 0;
		task = clone(look, tasks[mine].stack + STACK_BYTES, SHARING, index);
		CHECK(task > 0 && waitpid(task, &status, __WALL) == task);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3 && tasks[mine].said == mine + 7);
	}
	return NULL;
}

int main(void)
{
	int status;
	pid_t child;

	run_threads_at_once(4, body);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		body(index_as_pointer(4));
		_exit(5);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
	puts("untraced: all seen");
	return 0;
}
