// SPDX-License-Identifier: GPL-2.0-or-later
/* What is read after a message has come is not earlier than what was read before it left:
 * main and another thread, for some time, by pipes, which are as quick as it gets. */
#include "common.h"

enum { KINDS = 5 };

static const clockid_t kinds[KINDS] = {
	CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_TAI,
};
static int pipes[2][2];
static int milliseconds;

static void *body(void *argument)
{
	int self = pointer_as_index(argument);
	int64_t end_ns = clock_ns(CLOCK_MONOTONIC) + milliseconds * INT64_C(1000000);
	int64_t message[KINDS] = {0};

	for (int turn = 0;; turn ^= 1) {
		if (turn == self) {
			if (self == 0 && message[0] > end_ns)
				message[0] = INT64_MAX;
			else
				for (int i = 0; i < KINDS; i++)
					message[i] = clock_ns(kinds[i]);
			CHECK(write(pipes[self][1], message, sizeof message) == sizeof message);
			if (message[0] == INT64_MAX)
				return NULL;
			continue;
		}
		CHECK(read(pipes[turn][0], message, sizeof message) == sizeof message);
		if (message[0] == INT64_MAX)
			return NULL;
		for (int i = KINDS; i-- > 0;) {
			int64_t late_ns = clock_ns(kinds[i]) - message[i];

			if (late_ns < 0)
				dprintf(2, "clock %d: %" PRId64 " ns\n", kinds[i], late_ns);
			CHECK(late_ns >= 0);
		}
	}
}

int main(int argc, char **argv)
{
	milliseconds = argument(argc, argv, 1, 200);
	CHECK(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
	run_pair(1, body);
	printf("clock_messages: %d ms\n", milliseconds);
	return 0;
}
