// SPDX-License-Identifier: GPL-2.0-or-later
/* Waits with a deadline: they end with ETIMEDOUT, not early, in every thread. */
#include <semaphore.h>

#include "common.h"

enum { MS = 1000000, WAIT_MS = 15 };

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t written = PTHREAD_RWLOCK_INITIALIZER;
static sem_t empty;

static struct timespec deadline(int64_t *start_ns)
{
	struct timespec at;

	*start_ns = clock_ns(CLOCK_REALTIME);
	at.tv_sec = (*start_ns + WAIT_MS * MS) / 1000000000;
	at.tv_nsec = (*start_ns + WAIT_MS * MS) % 1000000000;
	return at;
}

static void check_waited(int64_t start_ns)
{
	int64_t waited_ns = clock_ns(CLOCK_REALTIME) - start_ns;

	CHECK(waited_ns >= WAIT_MS * MS && waited_ns < 20000LL * MS);
}

static void *body(void *unused)
{
	pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t silent = PTHREAD_COND_INITIALIZER;
	struct timespec at;
	int64_t start_ns;

	(void)unused;
	at = deadline(&start_ns);
	CHECK(pthread_mutex_timedlock(&held, &at) == ETIMEDOUT);
	check_waited(start_ns);
	CHECK(pthread_mutex_lock(&own) == 0);
	at = deadline(&start_ns);
	int result;
	do
		result = pthread_cond_timedwait(&silent, &own, &at);
	while (result == 0); /* woken for nothing: allowed */
	CHECK(result == ETIMEDOUT);
	check_waited(start_ns);
	CHECK(pthread_mutex_unlock(&own) == 0);
	at = deadline(&start_ns);
	CHECK(sem_timedwait(&empty, &at) == -1 && errno == ETIMEDOUT);
	check_waited(start_ns);
	at = deadline(&start_ns);
	CHECK(pthread_rwlock_timedrdlock(&written, &at) == ETIMEDOUT);
	check_waited(start_ns);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	CHECK(sem_init(&empty, 0, 0) == 0);
	CHECK(pthread_mutex_lock(&held) == 0 && pthread_rwlock_wrlock(&written) == 0);
	run_threads(threads, body);
	printf("timed_waits: %d threads timed out\n", threads);
	return 0;
}
