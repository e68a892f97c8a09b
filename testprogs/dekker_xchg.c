// SPDX-License-Identifier: GPL-2.0-or-later
/* Dekker's algorithm with XCHG, which locks the bus without a LOCK prefix. */
#include "dekker.h"

static void raise_flag(int *flag)
{
	int value = 1;

	__asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*flag)::"memory");
}

int main(int argc, char **argv)
{
	return run_dekker("dekker_xchg", argc, argv);
}
