// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CPUID in code made at run time, as JITs ask it: it answers what the program's own code is
 * told, in main, on a thread bound to each processor, and in a forked child; one line each.
 */
#include <cpuid.h>
#include <sys/mman.h>

#include "everywhere.h"

typedef void ask_t(unsigned leaf, unsigned subleaf, unsigned answer[4]);

#ifdef __x86_64__
static const unsigned char code[] = {
	0x53,                         /* push %rbx */
	0x49, 0x89, 0xd0,             /* mov %rdx, %r8 */
	0x89, 0xf8, 0x89, 0xf1,       /* mov %edi, %eax; mov %esi, %ecx */
	0x0f, 0xa2,                   /* cpuid */
	0x41, 0x89, 0x00,             /* mov %eax, (%r8) */
	0x41, 0x89, 0x58, 0x04,       /* mov %ebx, 4(%r8) */
	0x41, 0x89, 0x48, 0x08,       /* mov %ecx, 8(%r8) */
	0x41, 0x89, 0x50, 0x0c,       /* mov %edx, 12(%r8) */
	0x5b, 0xc3,                   /* pop %rbx; ret */
};
#else
static const unsigned char code[] = {
	0x53, 0x56,                   /* push %ebx; push %esi */
	0x8b, 0x44, 0x24, 0x0c,       /* mov 12(%esp), %eax */
	0x8b, 0x4c, 0x24, 0x10,       /* mov 16(%esp), %ecx */
	0x0f, 0xa2,                   /* cpuid */
	0x8b, 0x74, 0x24, 0x14,       /* mov 20(%esp), %esi */
	0x89, 0x06,                   /* mov %eax, (%esi) */
	0x89, 0x5e, 0x04,             /* mov %ebx, 4(%esi) */
	0x89, 0x4e, 0x08,             /* mov %ecx, 8(%esi) */
	0x89, 0x56, 0x0c,             /* mov %edx, 12(%esi) */
	0x5e, 0x5b, 0xc3,             /* pop %esi; pop %ebx; ret */
};
#endif

static ask_t *made;

static void report(const char *who, int number)
{
	static const unsigned leaves[] = { 0, 7, 0xd, 0x80000000, 0x80000001 };
	unsigned there[4], here[4];

	for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++) {
		made(leaves[i], 0, there);
		__cpuid_count(leaves[i], 0, here[0], here[1], here[2], here[3]);
		CHECK(memcmp(there, here, sizeof here) == 0);
	}
	made(7, 0, there);
	printf("%s %d: avx2 %d, avx512f %d\n", who, number, !!(there[1] & bit_AVX2),
	       !!(there[1] & bit_AVX512F));
}

int main(void)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	memcpy(page, code, sizeof code);
	made = (ask_t *)page;
	report_everywhere();
	return 0;
}
