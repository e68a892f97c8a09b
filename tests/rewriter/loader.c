// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tells whether a rewritten library loads: maps the page of the armed byte and
 * opens each library named on standard input in a child of its own.
 * Prints for each "PATH ok", "PATH no: REASON" or "PATH died STATUS".
 *
 * With an argument, an executable: tells whether the kernel takes it ("exec"),
 * and kills it before its first instruction.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int execute(char *path)
{
	int status = 0;
	char *argv[] = {path, NULL}, *envp[] = {NULL};
	pid_t pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execve(path, argv, envp);
		_exit(errno);
	}
	waitpid(pid, &status, 0);
	if (WIFSTOPPED(status)) {
		puts("exec");
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	} else if (WIFEXITED(status)) {
		printf("no: %s\n", strerror(WEXITSTATUS(status)));
	} else {
		printf("died %d\n", status);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return execute(argv[1]);
	char path[4096];
	if (mmap((void *)0xe2000, 4096, PROT_READ | PROT_WRITE,
		 MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_PRIVATE, -1, 0) == MAP_FAILED)
		return 1;
	while (fgets(path, sizeof path, stdin)) {
		int status = 0;
		path[strcspn(path, "\n")] = 0;
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			alarm(20);
			void *h = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
			dprintf(1, h ? "%s ok\n" : "%s no: %s\n", path, h ? "" : dlerror());
			_exit(0);
		}
		waitpid(pid, &status, 0);
		if (status)
			dprintf(1, "%s died %d\n", path, status);
	}
	return 0;
}
