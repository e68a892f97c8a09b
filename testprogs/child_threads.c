// SPDX-License-Identifier: GPL-2.0-or-later
/* Children and grandchildren that make threads of their own. */
#include <sys/wait.h>

#include "common.h"

static int done;

static void *body(void *index)
{
	__atomic_add_fetch(&done, pointer_as_index(index) + 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* The youngest goes first; each later one adds its own threads. */
static void child(int generations)
{
	while (generations-- > 0) {
		int status;
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid > 0) {
			CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
			done = WEXITSTATUS(status);
			break;
		}
	}
	run_threads(4, body);
	_exit(done);
}

int main(int argc, char **argv)
{
	int rounds = argument(argc, argv, 1, 10);

	for (int round = 0; round < rounds; round++) {
		int status;
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			child(round % 3);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 10 * (round % 3 + 1));
	}
	puts("child_threads: all joined");
	return 0;
}
