// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Functions with data among their instructions: bytes that are jumped over and begin what
 * reads as an instruction, and a table of offsets behind the jump that goes by it.
 */
#include <stdio.h>

asm(".text\n"
    ".type skips, @function\n"
    "skips: .cfi_startproc\n"
    "	jmp 1f\n"
    "	.byte 0x48, 0xb8\n" /* with what follows: mov $..., %rax */
    "1:	lock addl $1, (%rdi)\n"
    "	mov $3, %eax\n"
    "	xchg %eax, 4(%rdi)\n"
    "	ret\n"
    "	.cfi_endproc\n"
    ".size skips, . - skips\n"
    ".type chooses, @function\n"
    "chooses: .cfi_startproc\n"
    "	lea 2f(%rip), %rax\n"
    "	movslq (%rax, %rsi, 4), %rsi\n"
    "	add %rax, %rsi\n"
    "	jmp *%rsi\n"
    "	.p2align 3\n"
    "2:	.long 3f - 2b, 4f - 2b, 5f - 2b, 4f - 2b, 3f - 2b, 3f - 2b\n"
    "3:	lock addl $1, (%rdi)\n"
    "	mov $10, %eax\n"
    "	ret\n"
    "4:	lock subl $2, (%rdi)\n"
    "	mov $20, %eax\n"
    "	ret\n"
    "5:	mov $30, %eax\n"
    "	xchg %eax, 4(%rdi)\n"
    "	ret\n"
    "	.cfi_endproc\n"
    ".size chooses, . - chooses\n");

int skips(int *words), chooses(int *words, long which);

int main(void)
{
	int words[2] = {100, 200}, before = skips(words);

	printf("%d %d %d\n", before, words[0], words[1]);
	for (long i = 0; i < 6; i++) {
		int result = chooses(words, i);

		printf("%ld: %d %d %d\n", i, result, words[0], words[1]);
	}
	return 0;
}
