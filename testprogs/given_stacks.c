// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads on stacks that the program gives them: memory shared with a child process, of a
 * private mapping that is just large enough, of the heap with other data right below.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include "common.h"

enum { STACK_BYTES = 1 << 18, KINDS = 3 };

static unsigned char *stacks[KINDS];
static int reached[KINDS];

static void *body(void *index)
{
	int kind = pointer_as_index(index);
	volatile char frames[9 * PAGE_BYTES];

	for (size_t at = 0; at < sizeof frames; at += PAGE_BYTES)
		frames[at] = (char)kind;
	reached[kind] = frames[sizeof frames - PAGE_BYTES] + 1;
	return NULL;
}

int main(void)
{
	pthread_t threads[KINDS];
	unsigned char *heap;
	pid_t child;
	int status;

	stacks[0] = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	stacks[1] = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(stacks[0] != MAP_FAILED && stacks[1] != MAP_FAILED);
	CHECK((heap = malloc(2 * STACK_BYTES)));
	stacks[2] = heap + STACK_BYTES / 2;
	memset(heap, 7, STACK_BYTES / 2);
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(stacks[0][0] = 5);
	CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5 && stacks[0][0] == 5);
	for (int kind = 0; kind < KINDS; kind++) {
		pthread_attr_t attributes;

		CHECK(pthread_attr_init(&attributes) == 0);
		CHECK(pthread_attr_setstack(&attributes, stacks[kind], STACK_BYTES) == 0);
		CHECK(pthread_create(&threads[kind], &attributes, body, index_as_pointer(kind)) == 0);
	}
	for (int kind = 0; kind < KINDS; kind++)
		CHECK(pthread_join(threads[kind], NULL) == 0);
	for (int at = 0; at < STACK_BYTES / 2; at++)
		CHECK(heap[at] == 7);
	printf("given_stacks: %d %d %d\n", reached[0], reached[1], reached[2]);
	return 0;
}
