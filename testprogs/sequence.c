// SPDX-License-Identifier: GPL-2.0-or-later
/* Many threads one after another: stacks, ids and joins are used again. */
#include "common.h"

static long sum;

static void *body(void *index)
{
	sum += pointer_as_index(index);
	return index_as_pointer(pointer_as_index(index) * 2);
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 200);

	for (int i = 1; i <= threads; i++) {
		pthread_t thread;
		void *result;

		CHECK(pthread_create(&thread, NULL, body, index_as_pointer(i)) == 0);
		CHECK(pthread_join(thread, &result) == 0);
		CHECK(pointer_as_index(result) == 2 * i);
	}
	printf("sequence: %ld\n", sum);
	CHECK(sum == (long)threads * (threads + 1) / 2);
	return 0;
}
