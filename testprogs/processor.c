// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the processor can do, as CPUID, the auxiliary vector, /proc/cpuinfo and the C
 * library tell: in main, on a thread bound to each processor, and in a forked child, one
 * line each. glibc chooses its string functions by the same features; they are tried.
 */
#include <cpuid.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>

#include "everywhere.h"

/*
 * Of CPUID's word that is AT_HWCAP too. (The kernel corrects other bits, and glibc's
 * getauxval tells something of its own.)
 */
#define FOR_PROGRAMS (bit_CMPXCHG8B | bit_CMOV | bit_MMX | bit_FXSAVE | bit_SSE | bit_SSE2)

enum { SIZE_MAX_TRIED = 3000, GUARD = 64 };

static int lines_with(const char *word)
{
	FILE *info = fopen("/proc/cpuinfo", "r");
	char *line = NULL;
	size_t room = 0;
	int count = 0;
	char spaced[32];

	CHECK(info);
	snprintf(spaced, sizeof spaced, " %s ", word);
	while (getline(&line, &room, info) > 0) {
		line[strcspn(line, "\n")] = ' ';
		count += strncmp(line, "flags", 5) == 0 && strstr(line, spaced);
	}
	free(line);
	fclose(info);
	return count;
}

static unsigned long auxiliary(unsigned long type)
{
	int file = open("/proc/self/auxv", O_RDONLY);
	ElfW(auxv_t) entry;

	CHECK(file >= 0);
	while (read(file, &entry, sizeof entry) == sizeof entry && entry.a_type != AT_NULL)
		if (entry.a_type == type) {
			close(file);
			return entry.a_un.a_val;
		}
	CHECK(!"the auxiliary vector has it");
}

/* Against loops that the compiler may not take for what they are. */
static void try_strings(void)
{
	static __thread char from[SIZE_MAX_TRIED + 2 * GUARD], to[SIZE_MAX_TRIED + 2 * GUARD];

	for (int size = 0; size < SIZE_MAX_TRIED; size += 1 + size / 8)
		for (int shift = 0; shift < GUARD; shift += 7) {
			volatile char *byte = from;

			for (int i = 0; i < (int)sizeof from; i++)
				byte[i] = (char)(i % 251 + 1);
			memset(to, 0, sizeof to);
			memcpy(to + shift, from + GUARD - shift, (size_t)size);
			byte = to;
			for (int i = 0; i < (int)sizeof to; i++)
				CHECK(byte[i] == (i < shift || i >= shift + size ? 0 :
					(char)((i - 2 * shift + GUARD) % 251 + 1)));
			CHECK(strlen(to + shift) == (size_t)size);
			CHECK(memcmp(to + shift, from + GUARD - shift, (size_t)size) == 0);
			memmove(from + 1, from, (size_t)size + GUARD);
			byte = from;
			for (int i = 0; i < size + GUARD; i++)
				CHECK(byte[i + 1] == (char)(i % 251 + 1));
			CHECK(memchr(to, (char)((size + GUARD - shift) % 251 + 1), 0) == NULL);
		}
}

static void report(const char *who, int number)
{
	unsigned eax, ebx, ecx, edx, extended, sizes[4];
	char brand[49] = "";

	__cpuid(1, eax, ebx, ecx, edx);
	CHECK((edx & FOR_PROGRAMS) == (auxiliary(AT_HWCAP) & FOR_PROGRAMS));
	CHECK(getauxval(AT_HWCAP2) == auxiliary(AT_HWCAP2));
	__cpuid_count(0xd, 0, sizes[0], sizes[1], sizes[2], sizes[3]);
	CHECK(sizes[1] >= 576); /* the XSAVE area of what is enabled */
	__cpuid_count(7, 0, eax, extended, ecx, edx);
	for (unsigned i = 0; i < 3; i++) {
		__cpuid(0x80000002 + i, sizes[0], sizes[1], sizes[2], sizes[3]);
		memcpy(brand + 16 * i, sizes, sizeof sizes);
	}
	try_strings();
	printf("%s %d: cpuid %d %d, cpu_supports %d %d, cpuinfo %d %d, vpclmulqdq %d, %s\n", who,
	       number, !!(extended & bit_AVX2), !!(extended & bit_AVX512F),
	       !!__builtin_cpu_supports("avx2"), !!__builtin_cpu_supports("avx512f"),
	       lines_with("avx2"), lines_with("avx512f"), !!(ecx & bit_VPCLMULQDQ), brand);
}

int main(void)
{
	report_everywhere();
	return 0;
}
