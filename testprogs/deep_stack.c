// SPDX-License-Identifier: GPL-2.0-or-later
/* Deep recursion in main (a growing stack) and in threads with stacks of their own. */
#include "common.h"

static int depth;
static long results[THREADS_MAX];

static __attribute__((noinline)) long descend(int level)
{
	volatile char frame[2000];
	long below;

	frame[0] = frame[sizeof frame - 1] = (char)level;
	below = level ? descend(level - 1) : 0;
	CHECK(frame[0] == (char)level && frame[sizeof frame - 1] == (char)level);
	return below + level;
}

static void *body(void *index)
{
	results[pointer_as_index(index)] = descend(depth);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	pthread_attr_t small;
	pthread_t handles[THREADS_MAX];
	long total = descend(1000); /* about 2 MiB: far past the first stack pages */

	depth = argument(argc, argv, 2, 300);
	CHECK(pthread_attr_init(&small) == 0);
	CHECK(pthread_attr_setstacksize(&small, 1 << 20) == 0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&handles[i], i % 2 ? &small : NULL, body,
				     index_as_pointer(i)) == 0);
	for (int i = 0; i < threads; i++) {
		CHECK(pthread_join(handles[i], NULL) == 0);
		total += results[i];
	}
	printf("deep_stack: %ld\n", total);
	CHECK(total == 500500 + (long)threads * depth * (depth + 1) / 2);
	return 0;
}
