// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads on all hosts fork at the same moment; their children count in memory that all share,
 * and none sees what its parent has stored in its own memory since. */
#include <sys/mman.h>
#include <sys/wait.h>

#include "common.h"

enum { ROUNDS = 3, PAGES = 400, WORDS = PAGE_BYTES / sizeof(unsigned) };

static pthread_barrier_t all;
static unsigned *shared, *own;
static int threads;

static _Noreturn void child(int round)
{
	for (int page = 0; page < PAGES; page++) {
		CHECK(own[page * WORDS] == (unsigned)round + 1);
		__atomic_fetch_add(&shared[page * WORDS], 1, __ATOMIC_SEQ_CST);
	}
	_exit(0);
}

static void *body(void *argument)
{
	int index = pointer_as_index(argument), status;

	for (int round = 0; round < ROUNDS; round++) {
		if (index == 0) {
			size_t size = (size_t)PAGES * PAGE_BYTES;

			shared = mmap(NULL, size, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
			CHECK(shared != MAP_FAILED);
		}
		pthread_barrier_wait(&all);
		for (int page = index; page < PAGES; page += threads) {
			shared[page * WORDS] = 1;
			own[page * WORDS] = round + 1;
		}
		pthread_barrier_wait(&all);

		pid_t pid = fork();

		if (pid == 0)
			child(round);
		CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
		pthread_barrier_wait(&all);
		for (int page = index; page < PAGES; page += threads)
			CHECK(shared[page * WORDS] == 1u + threads);
		pthread_barrier_wait(&all);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	threads = argument(argc, argv, 1, 4);
	own = calloc(PAGES, PAGE_BYTES);
	CHECK(own != NULL);
	CHECK(pthread_barrier_init(&all, NULL, threads) == 0);
	run_threads(threads, body);
	printf("forks_at_once: %d children\n", ROUNDS * threads);
	return 0;
}
