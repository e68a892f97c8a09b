// SPDX-License-Identifier: GPL-2.0-or-later
/* Each thread counts in its own word of one shared page; none may disturb another. */
#include "common.h"

static struct {
	_Alignas(PAGE_BYTES) volatile long counter[THREADS_MAX];
	_Alignas(PAGE_BYTES) char end;
} page;
static int iterations;

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int i = 1; i <= iterations; i++) {
		page.counter[mine] += i;
		CHECK(page.counter[mine] == (long)i * (i + 1) / 2);
		if (i % 16 == 0)
			dawdle();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	long sum = 0;

	iterations = argument(argc, argv, 2, 2000);
	run_threads_at_once(threads, body);
	for (int i = 0; i < threads; i++)
		sum += page.counter[i];
	printf("false_sharing: %ld\n", sum);
	CHECK(sum == (long)threads * iterations * (iterations + 1) / 2);
	return 0;
}
