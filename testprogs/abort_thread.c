// SPDX-License-Identifier: GPL-2.0-or-later
/* abort() in a thread (0: in main): status 128 + 6. */
#include "common.h"

static void *body(void *unused)
{
	(void)unused;
	dprintf(1, "abort_thread: aborting\n");
	abort();
}

int main(int argc, char **argv)
{
	if (argument(argc, argv, 1, 1) == 0)
		body(NULL);
	run_threads(1, body);
	return 0;
}
