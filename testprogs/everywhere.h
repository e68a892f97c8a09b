// SPDX-License-Identifier: GPL-2.0-or-later
/* What a program is told: in main, on a thread bound to each processor, and in a forked child. */
#ifndef TESTPROGS_EVERYWHERE_H
#define TESTPROGS_EVERYWHERE_H

#include <sys/wait.h>

#include "common.h"

/* Prints a line: "main 0: ...", "processor 1: ..." or "child 0: ...". */
static void report(const char *who, int number);

static void *report_processor(void *index)
{
	stay_on(pointer_as_index(index));
	report("processor", pointer_as_index(index));
	return NULL;
}

static void report_everywhere(void)
{
	int status;
	pid_t child;

	report("main", 0);
	run_threads((int)sysconf(_SC_NPROCESSORS_ONLN), report_processor);
	fflush(stdout);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		report("child", 0);
		fflush(stdout);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
