// SPDX-License-Identifier: GPL-2.0-or-later
/* Ends with the status it is given, without a thread. */
#include "common.h"

int main(int argc, char **argv)
{
	return argument(argc, argv, 1, 0);
}
