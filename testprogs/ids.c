// SPDX-License-Identifier: GPL-2.0-or-later
/* Process and thread ids: one process, distinct threads, all of them in /proc. */
#include <sys/syscall.h>

#include "common.h"

static pid_t process, parent;
static pid_t tids[THREADS_MAX];
static pthread_barrier_t barrier;
static int threads;

static void *body(void *index)
{
	char path[64];
	pid_t tid = (pid_t)syscall(SYS_gettid);

	CHECK(getpid() == process && getppid() == parent && tid != process);
	CHECK(gettid() == tid);
	tids[pointer_as_index(index)] = tid;
	snprintf(path, sizeof path, "/proc/self/task/%d", tid);
	CHECK(access(path, F_OK) == 0);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < threads; i++)
		CHECK(i == pointer_as_index(index) || tids[i] != tid);
	return NULL;
}

int main(int argc, char **argv)
{
	threads = argument(argc, argv, 1, 4);
	process = getpid();
	parent = getppid();
	CHECK((pid_t)syscall(SYS_gettid) == process);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	printf("ids: %d threads, one process\n", threads);
	return 0;
}
