// SPDX-License-Identifier: GPL-2.0-or-later
/* Dekker's algorithm with a plain store and MFENCE. */
#include "dekker.h"

static void raise_flag(int *flag)
{
	*(volatile int *)flag = 1;
	__asm__ volatile("mfence" ::: "memory");
}

int main(int argc, char **argv)
{
	return run_dekker("dekker_mfence", argc, argv);
}
