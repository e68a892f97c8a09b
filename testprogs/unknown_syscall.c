// SPDX-License-Identifier: GPL-2.0-or-later
/* A system call number that no kernel has: natively ENOSYS. */
#include <sys/syscall.h>

#include "common.h"

int main(int argc, char **argv)
{
	long result = syscall(argument(argc, argv, 1, 1234), 1, 2, 3);

	printf("unknown_syscall: %s\n", result == -1 && errno == ENOSYS ? "ENOSYS" : "?");
	return 0;
}
