// SPDX-License-Identifier: GPL-2.0-or-later
/* errno belongs to the thread, and comes from the call that failed in it. */
#include <fcntl.h>

#include "common.h"

static pthread_barrier_t barrier;
static int seen[THREADS_MAX];

static int fail(int kind)
{
	char byte;

	switch (kind % 4) {
	case 0:
		return (int)read(-1, &byte, 1); /* EBADF */
	case 1:
		return open("/nonexistent/name", O_RDONLY); /* ENOENT */
	case 2:
		return (int)lseek(0, 0, 77); /* EINVAL, or ESPIPE for a pipe */
	default:
		return open("/dev/null/under", O_RDONLY); /* ENOTDIR */
	}
}

static void *body(void *index)
{
	static const int expected[] = { EBADF, ENOENT, EINVAL, ENOTDIR };
	int mine = pointer_as_index(index);

	CHECK(errno == 0);
	pthread_barrier_wait(&barrier);
	CHECK(fail(mine) == -1);
	pthread_barrier_wait(&barrier);
	CHECK(errno == expected[mine % 4] || (mine % 4 == 2 && errno == ESPIPE));
	seen[mine] = mine % 4 == 2 ? EINVAL : errno;
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	errno = E2BIG;
	run_threads(threads, body);
	CHECK(errno == E2BIG);
	printf("errno_thread:");
	for (int i = 0; i < threads; i++)
		printf(" %d", seen[i]);
	printf("\n");
	return 0;
}
