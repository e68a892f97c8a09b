// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Faults of the instructions of a patch, the first included: a handler is told
 * where they stand in the file, by the registers and, of a division, by si_addr.
 * In each function nothing behind the exchange can be moved (a call), so what
 * stands before it is, too.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <ucontext.h>

#ifdef __x86_64__
#define IP REG_RIP
#define WORD "quad"
#else
#define IP REG_EIP
#define WORD "long"
#endif

/* The first and third argument of a function are in eax and ecx on both. */
asm(".text\n"
    ".macro function name, first\n"
    "	.type \\name, @function\n"
    "\\name:\n"
    "	.cfi_startproc\n"
    "	\\first\n"
    "site_\\name: xchg %edx, (%ecx)\n"
    "	call nothing\n"
    "out_\\name: ret\n"
    "	.cfi_endproc\n"
    "	.size \\name, . - \\name\n"
    ".endm\n"
    "nothing: .cfi_startproc\n"
    "	ret\n"
    "	.cfi_endproc\n"
    "	.type nothing, @function\n"
    "	.size nothing, . - nothing\n"
    "function loads, \"mov 8(%eax), %edx\"\n"
    "function divides, \"div %esi; nop\"\n"
    ".section .data.rel, \"aw\"\n"
    "places: ." WORD " loads, site_loads - loads, out_loads - loads\n"
    "	." WORD " divides, site_divides - divides, out_divides - divides\n"
    ".text\n");

/* Distances, for a pointer to the exchange would keep it where it is. */
extern struct { char *entry; long site, out; } places[2];
static volatile int current, ip_right, address_right;
static char *expected;

static void handler(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	char *ip = (char *)u->uc_mcontext.gregs[IP];

	ip_right = ip == expected;
	address_right = number != SIGFPE || info->si_addr == ip;
	u->uc_mcontext.gregs[IP] = (greg_t)(places[current].entry + places[current].out);
}

static void try(int which, int at_site, void *a, void *c)
{
	unsigned long eax = (unsigned long)a, edx = 0;

	current = which;
	expected = places[which].entry + (at_site ? places[which].site : 0);
	ip_right = address_right = 0;
	asm volatile("call *%[entry]"
		     : "+a"(eax), "+d"(edx)
		     : "c"(c), "S"(0), [entry] "r"(places[which].entry)
		     : "memory", "cc");
	printf("%d %d: %d %d\n", which, at_site, ip_right, address_right);
}

int main(void)
{
	static int words[4];
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGFPE, &action, NULL);
	for (int i = 0; i < 2; i++) {
		try(0, 0, NULL, words);
		try(0, 1, words, NULL);
		try(1, 0, words, words);
	}
	return 0;
}
