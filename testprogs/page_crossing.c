// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Instructions that need two pages at once: a locked add, a plain store and a
 * string move, each over a page boundary.
 */
#include <sys/mman.h>

#include "common.h"

static unsigned char *area;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int iterations;

static void *body(void *index)
{
	unsigned long *crossing = (unsigned long *)(area + PAGE_BYTES - 3);
	unsigned char *text = area + 3 * PAGE_BYTES - 6;
	int mine = pointer_as_index(index);

	for (int i = 0; i < iterations; i++) {
		char source[12], copy[12];

		__asm__ volatile("lock add %1, %0" : "+m"(*crossing) : "r"(0x1000001UL) : "cc");
		memset(source, 'a' + mine, sizeof source);
		pthread_mutex_lock(&lock);
		void *from = source, *to = text;
		size_t length = sizeof source;
		__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(length)::"memory");
		memcpy(copy, text, sizeof copy);
		pthread_mutex_unlock(&lock);
		CHECK(memcmp(copy, source, sizeof copy) == 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	unsigned long value;

	iterations = argument(argc, argv, 2, 20);
	area = (unsigned char *)mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED);
	run_threads_at_once(threads, body);
	memcpy(&value, area + PAGE_BYTES - 3, sizeof value);
	printf("page_crossing: %lx\n", value);
	CHECK(value == 0x1000001UL * (unsigned long)threads * (unsigned long)iterations);
	return 0;
}
