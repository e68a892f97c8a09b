// SPDX-License-Identifier: GPL-2.0-or-later
/* Detached threads, by attribute and by call, counted down by a condition. */
#include "common.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static int remaining;
static long sum;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	if (mine % 2)
		CHECK(pthread_detach(pthread_self()) == 0);
	pthread_mutex_lock(&lock);
	sum += (mine + 1) * (mine + 1);
	if (--remaining == 0)
		pthread_cond_signal(&done);
	pthread_mutex_unlock(&lock);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 8);
	pthread_attr_t detached;
	pthread_t thread;

	remaining = threads;
	CHECK(pthread_attr_init(&detached) == 0);
	CHECK(pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&thread, i % 2 ? NULL : &detached, body,
				     index_as_pointer(i)) == 0);
	pthread_mutex_lock(&lock);
	while (remaining)
		pthread_cond_wait(&done, &lock);
	pthread_mutex_unlock(&lock);
	printf("detach: %ld\n", sum);
	return 0;
}
