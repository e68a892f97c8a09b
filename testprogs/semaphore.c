// SPDX-License-Identifier: GPL-2.0-or-later
/* A token goes round a ring of semaphores; another semaphore admits two at a time. */
#include <semaphore.h>

#include "common.h"

static sem_t ring[THREADS_MAX], gate;
static int threads, rounds, inside, inside_max;
static long token;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int round = 0; round < rounds; round++) {
		CHECK(sem_wait(&ring[mine]) == 0);
		token = token * 3 % 1000003 + mine + 1;
		CHECK(sem_post(&ring[(mine + 1) % threads]) == 0);
	}
	for (int round = 0; round < rounds / 10; round++) {
		CHECK(sem_wait(&gate) == 0);
		int now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
		CHECK(now <= 2);
		if (now > inside_max)
			inside_max = now;
		__atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
		CHECK(sem_post(&gate) == 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int value;
	long expected = 1;

	threads = argument(argc, argv, 1, 4);
	rounds = argument(argc, argv, 2, 60);
	for (int i = 0; i < threads; i++)
		CHECK(sem_init(&ring[i], 0, 0) == 0);
	CHECK(sem_init(&gate, 0, 2) == 0);
	token = 1;
	CHECK(sem_post(&ring[0]) == 0);
	run_threads(threads, body);

	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < threads; i++)
			expected = expected * 3 % 1000003 + i + 1;
	CHECK(token == expected && inside_max >= 1);
	CHECK(sem_getvalue(&gate, &value) == 0 && value == 2);
	CHECK(sem_trywait(&ring[0]) == 0);
	CHECK(sem_trywait(&ring[0]) == -1 && errno == EAGAIN);
	printf("semaphore: token %ld gate %d\n", token, value);
	return 0;
}
