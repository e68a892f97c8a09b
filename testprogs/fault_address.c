// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A locked instruction faults, or the one before it, which is moved with it: the handler
 * finds the instruction's own address, and what stood in the registers; it mends the
 * cause, and the instruction runs again. So it is with one that is not known to store (CLZERO).
 */
#include <cpuid.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "common.h"

extern const char locked[], swapped[], beside[], cleared[];
/* Behind the exchange stands a call, which must stay where it is. */
__asm__(".text\n"
	".type beside, @function\n"
	"beside: .cfi_startproc\n"
	"	mov (%rdi), %rax\n"
	"	xchg %rax, (%rsi)\n"
	"	call 1f\n"
	"1:	add $8, %rsp\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size beside, . - beside");
static unsigned char *area;
static const char *expected;
static int handled;

static int has_clzero(void)
{
	unsigned a, b = 0, c, d;

	return __get_cpuid(0x80000008, &a, &b, &c, &d) && b & 1;
}

static void handler(int number, siginfo_t *info, void *context)
{
	const ucontext_t *c = context;

	CHECK(number == SIGSEGV && info->si_addr == area);
	CHECK(c->uc_mcontext.gregs[REG_RIP] == (greg_t)expected);
	CHECK(c->uc_mcontext.gregs[REG_RDI] == (greg_t)area);
	CHECK(mprotect(area, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0);
	handled++;
}

static void *body(void *unused)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	long value = 5;

	CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
	area = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED);
	expected = locked;
	__asm__ volatile(".globl locked\nlocked: lock addq $7, (%0)" : : "D"(area) : "memory", "cc");
	CHECK(*(long *)area == 7);
	CHECK(mprotect(area, PAGE_BYTES, PROT_READ) == 0);
	expected = swapped;
	__asm__ volatile(".globl swapped\nswapped: xchgq %0, (%1)"
			 : "+a"(value) : "D"(area) : "memory");
	CHECK(value == 7 && *(long *)area == 5);
	CHECK(mprotect(area, PAGE_BYTES, PROT_NONE) == 0);
	expected = beside;
	long (*exchange)(unsigned char *, long *) = (long (*)(unsigned char *, long *))beside;
	long other = 9;
	CHECK(exchange(area, &other) == 9 && other == 5);
	if (has_clzero()) {
		CHECK(mprotect(area, PAGE_BYTES, PROT_READ) == 0);
		expected = cleared;
		__asm__ volatile(".globl cleared\ncleared: .byte 0x0f, 0x01, 0xfc"
				 : : "a"(area), "D"(area) : "memory");
		CHECK(*(long *)area == 0);
	}
	return unused;
}

int main(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	printf("fault_address: %d\n", handled);
	return handled == 3 + has_clzero() ? 0 : 1;
}
