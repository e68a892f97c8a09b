// SPDX-License-Identifier: GPL-2.0-or-later
/* Locked instructions of every width, beside each other in one page. */
#include "common.h"

static struct {
	uint8_t byte;
	uint16_t word;
	uint32_t dword;
	uint64_t qword;
	uint64_t by_exchange;
	unsigned long bits;
	_Alignas(16) unsigned long pair[2];
} shared;
static int iterations;

#ifdef __x86_64__
#define EXCHANGE_PAIR "lock cmpxchg16b"
#else
#define EXCHANGE_PAIR "lock cmpxchg8b"
#endif

/* Two words at once: the low one counts up, the high one down. */
static void count_pair(void)
{
	unsigned long low = shared.pair[0], high = shared.pair[1];
	char done;

	do {
		__asm__ volatile(EXCHANGE_PAIR " %1\n\tsete %0"
				 : "=q"(done), "+m"(shared.pair), "+a"(low), "+d"(high)
				 : "b"(low + 1), "c"(high - 1)
				 : "cc", "memory");
	} while (!done);
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	for (int i = 0; i < iterations; i++) {
		uint64_t seen = __atomic_load_n(&shared.by_exchange, __ATOMIC_RELAXED);

		__atomic_fetch_add(&shared.byte, 1, __ATOMIC_SEQ_CST);
		__atomic_fetch_add(&shared.word, 3, __ATOMIC_SEQ_CST);
		__atomic_fetch_sub(&shared.dword, 5, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&shared.qword, 7, __ATOMIC_SEQ_CST);
		while (!__atomic_compare_exchange_n(&shared.by_exchange, &seen, seen + 1, 0,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		count_pair();
		dawdle();
	}
	for (int bit = mine * 8; bit < mine * 8 + 8; bit++)
		__asm__ volatile("lock bts %1, %0" : "+m"(shared.bits) : "r"((long)bit) : "cc");
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	iterations = argument(argc, argv, 2, 150);
	run_threads_at_once(threads, body);
	uint64_t n = (uint64_t)threads * (uint64_t)iterations;
	printf("atomics: %u %u %u %" PRIu64 " %" PRIu64 " %lx %lu %lu\n", shared.byte, shared.word, shared.dword,
	       shared.qword, shared.by_exchange, shared.bits, shared.pair[0], shared.pair[1]);
	CHECK(shared.byte == (uint8_t)n && shared.word == (uint16_t)(3 * n));
	CHECK(shared.dword == (uint32_t)-(5 * n) && shared.qword == 7 * n);
	CHECK(shared.by_exchange == n && shared.pair[0] == n && shared.pair[1] == -(unsigned long)n);
	CHECK(threads >= (int)sizeof(long) || shared.bits == (1UL << (8 * threads)) - 1);
	return 0;
}
