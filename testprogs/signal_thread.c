// SPDX-License-Identifier: GPL-2.0-or-later
/* pthread_kill: the handler runs in the thread aimed at, and in no other. */
#include <signal.h>

#include "common.h"

static __thread volatile sig_atomic_t handled;
static pthread_barrier_t barrier;
static volatile int stop;
static int total;

static void on_signal(int number)
{
	CHECK(number == SIGUSR1);
	handled++;
}

static void *body(void *unused)
{
	unsigned turns = 0;

	(void)unused;
	pthread_barrier_wait(&barrier);
	while (!handled)
		spin_politely(&turns);
	CHECK(handled == 1);
	__atomic_fetch_add(&total, handled, __ATOMIC_SEQ_CST);
	pthread_barrier_wait(&barrier);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t handles[THREADS_MAX];

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, NULL) == 0);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_kill(handles[i], SIGUSR1) == 0);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_join(handles[i], NULL) == 0);
	CHECK(handled == 0 && total == threads);
	printf("signal_thread: %d\n", total);
	return 0;
}
