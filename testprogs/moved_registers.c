// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Vector registers, x87 and their control words keep what they have while a thread is moved
 * from processor to processor, in the middle of what could be any computation. x86-64 only.
 */
#include <sys/syscall.h>
#include <xmmintrin.h>

#include "common.h"

enum { REGISTERS = 16, WIDE = 32, NARROW = 16, ROUNDS = 4 };

#define ALL(each)                                                                     \
	each("0") each("1") each("2") each("3") each("4") each("5") each("6") each("7") \
	each("8") each("9") each("10") each("11") each("12") each("13") each("14") each("15")
#define LOAD_WIDE(n) "vmovdqu 32*" n "(%[in]), %%ymm" n "\n\t"
#define KEEP_WIDE(n) "vmovdqu %%ymm" n ", 32*" n "(%[out])\n\t"
#define LOAD(n) "movdqu 16*" n "(%[in]), %%xmm" n "\n\t"
#define KEEP(n) "movdqu %%xmm" n ", 16*" n "(%[out])\n\t"
#define VECTORS                                                                          \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
	"xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* sched_setaffinity(0, size, mask) with registers loaded before, and stored after it. */
#define MOVE(name, load, keep)                                                            \
	static long name(const void *in, void *out, size_t size, const cpu_set_t *mask)   \
	{                                                                                 \
		long result = SYS_sched_setaffinity;                                      \
											  \
		__asm__ volatile(ALL(load) "syscall\n\t" ALL(keep)                        \
				 : "+a"(result)                                           \
				 : "D"(0), "S"(size), "d"(mask), [in] "r"(in),            \
				   [out] "r"(out)                                         \
				 : "rcx", "r11", "memory", VECTORS);                      \
		return result;                                                            \
	}

MOVE(move_wide, LOAD_WIDE, KEEP_WIDE)
MOVE(move, LOAD, KEEP)

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	int wide = __builtin_cpu_supports("avx");
	size_t length = (size_t)REGISTERS * (wide ? WIDE : NARROW);
	unsigned char in[REGISTERS * WIDE], out[REGISTERS * WIDE];
	volatile long double third = 1.0L / 3;
	/* Rounding, of SSE and of the x87: down or up. */
	unsigned csr = (_mm_getcsr() & ~_MM_ROUND_MASK) |
		       (mine % 2 ? _MM_ROUND_DOWN : _MM_ROUND_UP);
	unsigned short word = mine % 2 ? 0x077f : 0x0b7f, now;

	_mm_setcsr(csr);
	__asm__ volatile("fldcw %0" : : "m"(word));
	for (int round = 0; round < ROUNDS * processors; round++) {
		int target = (mine + round) % processors;
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(target, &one);
		for (size_t i = 0; i < length; i++)
			in[i] = (unsigned char)(i * 7 + (size_t)round * 13 + (size_t)mine);
		memset(out, 0, sizeof out);
		CHECK((wide ? move_wide : move)(in, out, sizeof one, &one) == 0);
		CHECK(memcmp(in, out, length) == 0);
		CHECK(sched_getcpu() == target);
		CHECK((_mm_getcsr() & _MM_ROUND_MASK) == (csr & _MM_ROUND_MASK));
		__asm__ volatile("fnstcw %0" : "=m"(now));
		CHECK(now == word);
		CHECK(third * 3 - 1 < 1e-18L && third * 3 - 1 > -1e-18L);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	run_threads(argument(argc, argv, 1, 3), body);
	printf("registers moved\n");
	return 0;
}
