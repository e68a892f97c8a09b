// SPDX-License-Identifier: GPL-2.0-or-later
/* Ends while its threads, on all hosts, have just begun: with its own status, and no word. */
#include "common.h"

static void *body(void *argument)
{
	pause();
	return argument;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	pthread_t thread;

	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	return 9;
}
