// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads too short to be worth another processor, one after the other; then a team that
 * computes. Where short ones begin is no matter, as long as the team's are spread: they may
 * be moved in the middle of what they compute.
 */
#include "common.h"

enum { SHORT = 40, ROUNDS = 64 };

static int members, team_ms;
static int begun;
static uint64_t results[THREADS_MAX];
static int processors[THREADS_MAX];
static pthread_barrier_t team_gate;

static void *short_one(void *index)
{
	CHECK(begun++ == pointer_as_index(index));
	return NULL;
}

static uint64_t churn(uint64_t value)
{
	for (int i = 0; i < 100000; i++)
		next_random(&value);
	return value;
}

/* The same for each thread; as often as it takes to have used the time. */
static void use_time(int mine)
{
	int64_t until_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) + team_ms * 1000000LL;

	do {
		uint64_t value = 1;
		double sum = 0;

		for (int i = 0; i < ROUNDS; i++) {
			value = churn(value);
			sum += (double)(value & 0xffff);
		}
		results[mine] = value ^ (uint64_t)sum;
	} while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < until_ns);
}

/* Each looks where it is once all have computed: when one has ended, there is room for others. */
static void *compute(void *index)
{
	int mine = pointer_as_index(index);

	use_time(mine);
	pthread_barrier_wait(&team_gate);
	processors[mine] = sched_getcpu();
	pthread_barrier_wait(&team_gate);
	use_time(mine);
	return NULL;
}

int main(int argc, char **argv)
{
	members = argument(argc, argv, 1, 2);
	team_ms = argument(argc, argv, 2, 500);
	for (int i = 0; i < SHORT; i++) {
		pthread_t thread;

		CHECK(pthread_create(&thread, NULL, short_one, index_as_pointer(i)) == 0);
		CHECK(pthread_join(thread, NULL) == 0);
	}
	CHECK(begun == SHORT);
	CHECK(pthread_barrier_init(&team_gate, NULL, (unsigned)members) == 0);
	run_threads(members, compute);
	for (int i = 0; i < members; i++) {
		CHECK(results[i] == results[0]);
		fprintf(stderr, "team on %d\n", processors[i]);
	}
	printf("short_threads: %d, then %" PRIx64 "\n", SHORT, results[0]);
	return 0;
}
