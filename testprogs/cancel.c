// SPDX-License-Identifier: GPL-2.0-or-later
/* pthread_cancel of threads that sleep in a call, wait for a condition, and compute. */
#include "common.h"

static pthread_barrier_t barrier;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static int cleaned, ends[2];

static void clean(void *index)
{
	__atomic_fetch_add(&cleaned, pointer_as_index(index) + 1, __ATOMIC_SEQ_CST);
}

static void unlock(void *mutex)
{
	pthread_mutex_unlock((pthread_mutex_t *)mutex);
}

static void *body(void *index)
{
	char byte;

	pthread_cleanup_push(clean, index);
	pthread_barrier_wait(&barrier);
	switch (pointer_as_index(index) % 3) {
	case 0:
		(void)!read(ends[0], &byte, 1);
		break;
	case 1:
		pthread_mutex_lock(&lock);
		pthread_cleanup_push(unlock, &lock);
		for (;;)
			pthread_cond_wait(&never, &lock);
		pthread_cleanup_pop(1);
		break;
	default:
		for (;;)
			pthread_testcancel();
	}
	pthread_cleanup_pop(0);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	pthread_t handles[THREADS_MAX];

	CHECK(pipe(ends) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, index_as_pointer(i)) == 0);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_cancel(handles[i]) == 0);
	for (int i = 0; i < threads; i++) {
		void *value;

		CHECK(pthread_join(handles[i], &value) == 0 && value == PTHREAD_CANCELED);
	}
	CHECK(pthread_mutex_trylock(&lock) == 0); /* the clean-up gave it back */
	printf("cancel: %d\n", cleaned);
	CHECK(cleaned == threads * (threads + 1) / 2);
	return 0;
}
