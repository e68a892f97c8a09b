// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tells whether a rewritten library loads: maps the page of the armed byte and
 * opens each library named on standard input in a child of its own.
 * Prints for each "PATH ok", "PATH no: REASON" or "PATH died STATUS".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	char path[4096];
	if (mmap((void *)0x102000, 4096, PROT_READ | PROT_WRITE,
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
