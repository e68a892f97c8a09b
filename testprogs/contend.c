// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads that want the same memory for a while, as fast as they can get it:
 *
 *     own    each adds to a counter of its own, all counters in one page
 *     apart  the same, each counter in a page of its own
 *     lock   LOCK ADD to one word
 *     cross  a plain add to eight bytes that lie in two pages
 *     movs   REP MOVSQ from one shared page to another, and back
 *     mutex  one pthread_mutex_t, and a counter under it
 *
 * A line for each thread: its processor, how many times it was through, and the longest
 * time, in microseconds, that it waited from one time to the next (for `own` and `apart`,
 * from one thousand to the next). Where the sum is certain it is checked.
 */
#include <x86intrin.h>

#include "common.h"

enum { MANY = 1000, WORDS = PAGE_BYTES / 8 };

static struct {
	_Alignas(PAGE_BYTES) char pages[2][PAGE_BYTES];
	_Alignas(PAGE_BYTES) long counter[THREADS_MAX][WORDS];
	_Alignas(PAGE_BYTES) struct {
		long count, cpu;
		uint64_t longest;
		_Alignas(PAGE_BYTES) char end;
	} result[THREADS_MAX];
	uint64_t cycles;
} shared;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long guarded;
static const char *kind;

/*
 * Processors that forward a store to a load of the same base register without delay (memory
 * renaming) do so in one run and not in the next, natively too: rates differ sevenfold. They
 * do it never where there is an index, so that rates can be compared.
 */
static void increment(long *counter)
{
	__asm__ volatile("addq $1,(%1,%2,8)" : "+m"(*counter) : "r"(counter), "r"(0L) : "cc");
}

static long once(int mine)
{
	char *first = shared.pages[0], *second = shared.pages[1];
	long *own = kind[0] == 'o' ? &shared.counter[0][mine * 8] : shared.counter[mine];
	size_t words = WORDS;

	switch (kind[0]) {
	case 'o':
	case 'a':
		for (int i = 0; i < MANY; i++)
			increment(own);
		return MANY;
	case 'l':
		__asm__ volatile("lock addq $1,%0" : "+m"(*(long *)first) : : "cc");
		return 1;
	case 'c':
		__asm__ volatile("addq $1,%0" : "+m"(*(long *)(second - 4)) : : "cc");
		return 1;
	case 'm':
		if (kind[1] == 'u')
			break;
		if (mine % 2) {
			char *swapped = first;

			first = second;
			second = swapped;
		}
		__asm__ volatile("rep movsq" : "+S"(first), "+D"(second), "+c"(words) : : "memory");
		return 1;
	}
	CHECK(pthread_mutex_lock(&mutex) == 0);
	guarded++;
	CHECK(pthread_mutex_unlock(&mutex) == 0);
	return 1;
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	uint64_t cycles = shared.cycles, longest = 0, begin, last, now;
	long count = 0;

	last = begin = __rdtsc();
	do {
		count += once(mine);
		now = __rdtsc();
		if (now - last > longest)
			longest = now - last;
		last = now;
	} while (now - begin < cycles);
	shared.result[mine].count = count;
	shared.result[mine].longest = longest;
	shared.result[mine].cpu = sched_getcpu();
	return NULL;
}

static double cycles_per_us(void)
{
	int64_t begin_ns = clock_ns(CLOCK_MONOTONIC), end_ns;
	uint64_t begin = __rdtsc();

	for (volatile int i = 0; i < 20000000; i++)
		;
	end_ns = clock_ns(CLOCK_MONOTONIC);
	return (double)(__rdtsc() - begin) * 1e3 / (double)(end_ns - begin_ns);
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 2, 2), milliseconds = argument(argc, argv, 3, 500);
	double frequency = cycles_per_us();
	long sum = 0;

	kind = argc > 1 ? argv[1] : "lock";
	shared.cycles = (uint64_t)(frequency * 1e3 * milliseconds);
	run_threads_at_once(threads, body);
	for (int i = 0; i < threads; i++) {
		printf("%ld %ld %.0f\n", shared.result[i].cpu, shared.result[i].count,
		       (double)shared.result[i].longest / frequency);
		sum += shared.result[i].count;
		if (kind[0] == 'o')
			CHECK(shared.counter[0][i * 8] == shared.result[i].count);
	}
	CHECK(kind[0] != 'l' || *(long *)shared.pages[0] == sum);
	CHECK(strcmp(kind, "mutex") != 0 || guarded == sum);
	return 0;
}
