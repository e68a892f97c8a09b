// SPDX-License-Identifier: GPL-2.0-or-later
/* Shared memory of System V, attached by threads in turn: by shmat and, on i386, by ipc. */
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "common.h"

static int identifier;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void *attach(int by_ipc)
{
#ifdef SYS_ipc
	void *found = NULL;

	if (by_ipc) {
		CHECK(syscall(SYS_ipc, 21, 1 << 30, 0, &found, NULL, 0) == -1 && errno == EINVAL);
		CHECK(syscall(SYS_ipc, 21, identifier, 0, &found, NULL, 0) == 0);
		return found;
	}
	return (void *)syscall(SYS_shmat, identifier, NULL, 0);
#else
	(void)by_ipc;
	return shmat(identifier, NULL, 0);
#endif
}

static void *body(void *index)
{
	int *first, *second;

	CHECK(pthread_mutex_lock(&turn) == 0);
	first = attach(0);
	second = attach(1);
	CHECK(first != (void *)-1 && second != (void *)-1 && first != second);
	__atomic_fetch_add(&first[0], 1 + pointer_as_index(index), __ATOMIC_SEQ_CST);
	CHECK(__atomic_load_n(&second[0], __ATOMIC_SEQ_CST) >= 1);
	CHECK(shmdt(first) == 0 && shmdt(second) == 0);
	CHECK(shmdt(first) == -1 && errno == EINVAL);
	CHECK(pthread_mutex_unlock(&turn) == 0);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	int *memory;

	identifier = shmget(IPC_PRIVATE, 3 * PAGE_BYTES, 0600);
	CHECK(identifier >= 0);
	memory = shmat(identifier, NULL, 0);
	CHECK(memory != (void *)-1);
	CHECK(shmctl(identifier, IPC_RMID, NULL) == 0);
	run_threads(threads, body);
	printf("sysv_memory: %d\n", memory[0]);
	return 0;
}
