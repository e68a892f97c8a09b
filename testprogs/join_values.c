// SPDX-License-Identifier: GPL-2.0-or-later
/* Values through pthread_join: returned, given to pthread_exit, after the end. */
#include "common.h"

enum { SHIFT = sizeof(long) * 8 - 24 };

static __attribute__((noinline)) void leave(long value)
{
	pthread_exit((void *)value);
}

static void *body(void *index)
{
	long mine = pointer_as_index(index);

	if (mine % 2)
		leave(mine * 1000003L);
	return (void *)(mine << SHIFT);
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 6);
	pthread_t handles[THREADS_MAX];
	long sum = 0;

	CHECK(threads <= THREADS_MAX);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], NULL, body, index_as_pointer(i)) == 0);
	for (int i = threads - 1; i >= 0; i--) {
		void *value;

		CHECK(pthread_join(handles[i], &value) == 0);
		CHECK((long)value == (i % 2 ? i * 1000003L : (long)i << SHIFT));
		sum += (long)value;
	}
	CHECK(pthread_join(pthread_self(), NULL) == EDEADLK);
	printf("join_values: %ld\n", sum);
	return 0;
}
