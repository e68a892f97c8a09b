// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Code made at run time, by every thread, in the ways that JITs have: writable and
 * executable at once, changed while it is in use; written, then made executable and
 * writable again by turns; from a file, mapped readable and then made executable; with a third
 * argument, also through a second, writable mapping of a memfd. The code adds with a
 * locked instruction to one counter of all threads, and returns a number that changes.
 */
#include <sys/mman.h>

#include "common.h"

typedef int code_t(long *);

static int rounds, twice;
static long counter;

/* mov $number, %eax; lock addq $1, (%rdi); ret */
static void emit(unsigned char *at, int number)
{
	static const unsigned char tail[] = { 0xf0, 0x48, 0x83, 0x07, 0x01, 0xc3 };

	at[0] = 0xb8;
	memcpy(at + 1, &number, 4);
	memcpy(at + 5, tail, sizeof tail);
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	int shared = memfd_create("jit", MFD_CLOEXEC), file = memfd_create("file", MFD_CLOEXEC);
	int private = MAP_PRIVATE | MAP_ANONYMOUS;
	unsigned char code[16];
	unsigned char *both = mmap(NULL, PAGE_BYTES, 7, private, -1, 0);
	unsigned char *turns = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, private, -1, 0);

	CHECK(ftruncate(shared, PAGE_BYTES) == 0 && ftruncate(file, PAGE_BYTES) == 0);
	CHECK(both != MAP_FAILED && turns != MAP_FAILED);
	unsigned char *written = NULL, *run = NULL;
	if (twice) {
		written = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
		run = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, shared, 0);
		CHECK(written != MAP_FAILED && run != MAP_FAILED);
	}
	for (int round = 0; round < rounds; round++) {
		int number = mine * 1000 + round;

		emit(both, number);
		CHECK(((code_t *)both)(&counter) == number);
		CHECK(mprotect(turns, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0);
		emit(turns, number + 1);
		CHECK(mprotect(turns, PAGE_BYTES, PROT_READ | PROT_EXEC) == 0);
		CHECK(((code_t *)turns)(&counter) == number + 1);
		if (twice) {
			emit(written, number + 2);
			CHECK(((code_t *)run)(&counter) == number + 2);
		}
		emit(code, number + 3);
		CHECK(pwrite(file, code, sizeof code, 0) == sizeof code);
		unsigned char *read = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, file, 0);
		CHECK(read != MAP_FAILED);
		CHECK(mprotect(read, PAGE_BYTES, PROT_READ | PROT_EXEC) == 0);
		CHECK(((code_t *)read)(&counter) == number + 3);
		CHECK(munmap(read, PAGE_BYTES) == 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	rounds = argument(argc, argv, 2, 20);
	twice = argument(argc, argv, 3, 0);
	run_threads_at_once(threads, body);
	CHECK(counter == (twice ? 4L : 3L) * threads * rounds);
	printf("jit: %ld\n", counter);
	return 0;
}
