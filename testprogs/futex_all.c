// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * futex(2) as it is called: who is woken, how many, by which bits, moved where, what is
 * refused, and that no wake-up is lost between threads of several hosts, however short the time
 * between a comparison and a wait. FUTEX_ALL ROUNDS.
 */
#include <linux/futex.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "common.h"

enum { WAITERS = 4, LOST_S = 20, ROUNDS_MAX = 10 };

typedef _Atomic int word_t;

/* Words of different pages, and some of one page. */
static struct {
	word_t word;
	char rest[PAGE_BYTES - sizeof(word_t)];
} apart[8] __attribute__((aligned(PAGE_BYTES)));
static word_t together[8] __attribute__((aligned(PAGE_BYTES)));

static int rounds;

static long call(word_t *word, int operation, int value, const void *fourth, word_t *second,
		 int third)
{
	long result = syscall(SYS_futex, word, operation, value, fourth, second, third);

	return result < 0 ? -errno : result;
}

static const void *number(long count)
{
	return (const void *)count;
}

static long wake(word_t *word, int count)
{
	return call(word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Waits as long as nothing else would: a wake-up that was lost is a failure. */
static long wait_long(word_t *word, int value)
{
	struct timespec limit = { .tv_sec = LOST_S };

	return call(word, FUTEX_WAIT_PRIVATE, value, &limit, NULL, 0);
}

/* Moves waiters from one word to another until `count` have come, waking none. */
static void gather(word_t *from, word_t *to, int count)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	time_t limit = time(NULL) + LOST_S;

	while (count > 0) {
		long moved = call(from, FUTEX_CMP_REQUEUE_PRIVATE, 0, number(count), to,
				  atomic_load(from));

		CHECK(moved >= 0 && moved <= count);
		count -= (int)moved;
		CHECK(time(NULL) < limit);
		nanosleep(&pause, NULL);
	}
}

static void *sleeper(void *index)
{
	stay_on(pointer_as_index(index));
	CHECK(wait_long(&apart[0].word, 0) == 0);
	return NULL;
}

static void *sleeper_for_bits(void *index)
{
	struct timespec limit;
	int bits = 1 << pointer_as_index(index) % 2;

	stay_on(pointer_as_index(index));
	CHECK(clock_gettime(CLOCK_MONOTONIC, &limit) == 0);
	limit.tv_sec += LOST_S;
	CHECK(call(&apart[0].word, FUTEX_WAIT_BITSET_PRIVATE, 0, &limit, NULL, bits) == 0);
	return NULL;
}

static void begin(pthread_t *threads, void *(*body)(void *))
{
	for (int i = 0; i < WAITERS; i++)
		CHECK(pthread_create(&threads[i], NULL, body, index_as_pointer(i)) == 0);
}

static void end(pthread_t *threads)
{
	for (int i = 0; i < WAITERS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static void errors(word_t *word)
{
	struct timespec moment = { .tv_nsec = 2000000 }, absolute, wrong = { .tv_nsec = -1 };
	word_t *odd = (word_t *)((char *)word + 1), *nowhere = (word_t *)4096;

	CHECK(call(word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0) == -EAGAIN);
	CHECK(call(word, FUTEX_WAIT_PRIVATE, 0, &moment, NULL, 0) == -ETIMEDOUT);
	CHECK(call(word, FUTEX_WAIT_PRIVATE, 1, &wrong, NULL, 0) == -EINVAL);
	CHECK(clock_gettime(CLOCK_REALTIME, &absolute) == 0);
	CHECK(call(word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &absolute, NULL,
		   1) == -ETIMEDOUT);
	CHECK(call(word, FUTEX_WAIT_BITSET_PRIVATE, 1, NULL, NULL, 0) == -EINVAL);
	CHECK(call(word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0) == -EINVAL);
	CHECK(call(word, FUTEX_WAKE_PRIVATE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0) == -ENOSYS);
	CHECK(call(odd, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == -EINVAL);
	CHECK(call(odd, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == -EINVAL);
	CHECK(call(nowhere, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == -EFAULT);
	CHECK(wake(nowhere, 1) == 0);
	CHECK(call(word, FUTEX_CMP_REQUEUE_PRIVATE, 0, number(1), word + 1, 7) == -EAGAIN);
	CHECK(call(word, FUTEX_CMP_REQUEUE_PRIVATE, -1, number(1), word + 1, 0) == -EINVAL);
	CHECK(call(word, FUTEX_WAKE_OP_PRIVATE, 1, number(1), word + 1,
		   (int)FUTEX_OP(7, 0, 0, 0)) == -ENOSYS);
	CHECK(call(word, 99, 0, NULL, NULL, 0) == -ENOSYS);
	CHECK(wake(word, INT_MAX) == 0);
}

static void *all_errors(void *index)
{
	stay_on(pointer_as_index(index));
	errors(&apart[5 + pointer_as_index(index)].word);
	return NULL;
}

/*
 * The kernel may wake a waiter for no reason, which then waits again where it began, not where it
 * was moved to (futex_wait, kernel/futex/waitwake.c): how many are where says nothing then, only
 * that nobody is lost. Wakes them; such a round is repeated, ROUNDS_MAX times at most.
 */
static int strayed(int round)
{
	long strays = wake(&apart[0].word, INT_MAX);

	CHECK(strays >= 0 && (strays == 0 || round < ROUNDS_MAX));
	return strays > 0;
}

static void counts(void)
{
	pthread_t threads[WAITERS];
	word_t *to = &together[3];
	long woken, moved, back, left;
	int astray;

	for (int round = 0;; round++) {
		begin(threads, sleeper);
		gather(&apart[0].word, to, WAITERS);
		astray = strayed(round);
		/* Not private: another queue. */
		CHECK(call(to, FUTEX_WAKE, INT_MAX, NULL, NULL, 0) == 0);
		woken = wake(to, 1);
		/* Back, one of them woken on the way. */
		moved = call(to, FUTEX_CMP_REQUEUE_PRIVATE, 1, number(1), &apart[0].word, 0);
		back = wake(&apart[0].word, INT_MAX);
		left = wake(to, INT_MAX);
		end(threads);
		if (!astray && (back == 1 || round == ROUNDS_MAX))
			break;
	}
	CHECK(woken == 1 && moved == 2 && back == 1 && left == 1);

	for (int round = 0;; round++) {
		begin(threads, sleeper_for_bits);
		gather(&apart[0].word, to, WAITERS);
		CHECK(call(to, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, 4) == 0);
		moved = call(to, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, 2);
		left = call(to, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, 3);
		astray = strayed(round);
		end(threads);
		if (!astray)
			break;
	}
	CHECK(moved == WAITERS / 2 && left == WAITERS / 2);
}

static void wake_and_change(void)
{
	static const struct {
		int operation, operand, before, after;
	} changes[] = {
		{ FUTEX_OP_SET, 5, 9, 5 },
		{ FUTEX_OP_ADD, -3, 9, 6 },
		{ FUTEX_OP_OR, 6, 9, 15 },
		{ FUTEX_OP_ANDN, 1, 9, 8 },
		{ FUTEX_OP_XOR, 3, 9, 10 },
		{ FUTEX_OP_ADD | FUTEX_OP_OPARG_SHIFT, 4, 9, 25 },
		{ FUTEX_OP_SET, -1, 9, -1 },
	};
	static const struct {
		int comparison, threshold, holds; /* of 9 */
	} conditions[] = {
		{ FUTEX_OP_CMP_EQ, 9, 1 }, { FUTEX_OP_CMP_EQ, 8, 0 }, { FUTEX_OP_CMP_NE, 8, 1 },
		{ FUTEX_OP_CMP_LT, 9, 0 }, { FUTEX_OP_CMP_LE, 9, 1 }, { FUTEX_OP_CMP_GT, -1, 1 },
		{ FUTEX_OP_CMP_GE, 10, 0 },
	};
	word_t *first = &together[1], *second = &apart[1].word;
	pthread_t threads[WAITERS];

	for (unsigned i = 0; i < sizeof changes / sizeof *changes; i++) {
		atomic_store(second, changes[i].before);
		CHECK(call(first, FUTEX_WAKE_OP_PRIVATE, 1, number(1), second,
			   (int)FUTEX_OP(changes[i].operation, changes[i].operand & 0xfff, 0,
					 0)) == 0);
		CHECK(atomic_load(second) == changes[i].after);
	}
	for (unsigned i = 0; i < sizeof conditions / sizeof *conditions; i++) {
		long woken, at_first, at_second;
		int astray;

		for (int round = 0;; round++) {
			begin(threads, sleeper);
			gather(&apart[0].word, first, 2);
			gather(&apart[0].word, second, 2);
			atomic_store(second, 9);
			woken = call(first, FUTEX_WAKE_OP_PRIVATE, 1, number(INT_MAX), second,
				     (int)FUTEX_OP(FUTEX_OP_ADD, 1, conditions[i].comparison,
						   conditions[i].threshold & 0xfff));
			at_first = wake(first, INT_MAX);
			at_second = wake(second, INT_MAX);
			astray = strayed(round);
			end(threads);
			if (!astray)
				break;
		}
		CHECK(woken == (conditions[i].holds ? 3 : 1));
		CHECK(at_first == 1);
		CHECK(at_second == (conditions[i].holds ? 0 : 2));
	}
}

/* Two threads take turns; every turn is a store, a wake-up, and a wait for the other's. */
static void *take_turns(void *index)
{
	int mine = pointer_as_index(index), pair = mine / 2, side = mine % 2;
	word_t *word = pair ? &together[4] : &apart[2].word;

	stay_on(mine + pair);
	for (int turn = 0; turn < 2 * rounds; turn++) {
		if (turn % 2 == side) {
			atomic_store(word, turn + 1);
			CHECK(wake(word, 1) <= 1);
			continue;
		}
		for (int seen; (seen = atomic_load(word)) <= turn;)
			CHECK(wait_long(word, seen) != -ETIMEDOUT);
	}
	return NULL;
}

static long shared_count;

/* A lock of one word: 0 free, 1 held, 2 held and waited for. */
static void *count_under_lock(void *index)
{
	word_t *lock = &together[6];

	stay_on(pointer_as_index(index));
	for (int round = 0; round < rounds; round++) {
		int seen = 0;

		if (!atomic_compare_exchange_strong(lock, &seen, 1))
			while (seen == 2 || atomic_exchange(lock, 2) != 0) {
				CHECK(wait_long(lock, 2) != -ETIMEDOUT);
				seen = 2;
				if (atomic_exchange(lock, 2) == 0)
					break;
			}
		shared_count++;
		if (atomic_exchange(lock, 0) == 2)
			CHECK(wake(lock, 1) >= 0);
	}
	return NULL;
}

/* Wakes without a pause until somebody has been woken: who wants to wait must get to it. */
static void *wait_once(void *index)
{
	stay_on(pointer_as_index(index));
	CHECK(wait_long(&apart[6].word, 0) == 0);
	return NULL;
}

static void wake_eagerly(void)
{
	for (int round = 0; round < 20; round++) {
		time_t limit = time(NULL) + LOST_S;
		pthread_t thread;

		CHECK(pthread_create(&thread, NULL, wait_once, index_as_pointer(round)) == 0);
		while (wake(&apart[6].word, 1) == 0)
			CHECK(time(NULL) < limit);
		CHECK(pthread_join(thread, NULL) == 0);
	}
}

static void nothing(int signal_number)
{
	(void)signal_number;
}

static _Atomic int restarts;

static void *interrupted(void *index)
{
	(void)index;
	stay_on(1);
	if (atomic_load(&restarts))
		CHECK(call(&apart[3].word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == 0);
	else
		CHECK(wait_long(&apart[3].word, 0) == -EINTR);
	return NULL;
}

static void signals(void)
{
	for (int restart = 0; restart < 2; restart++) {
		struct sigaction action = { .sa_handler = nothing,
					    .sa_flags = restart ? SA_RESTART : 0 };
		pthread_t thread;

		CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
		atomic_store(&restarts, restart);
		CHECK(pthread_create(&thread, NULL, interrupted, NULL) == 0);
		gather(&apart[3].word, &apart[4].word, 1);
		CHECK(pthread_kill(thread, SIGUSR1) == 0);
		/* A call that is restarted waits for its own word, from which it was moved. */
		if (restart)
			for (int woken = 0; woken == 0;)
				woken = (int)wake(&apart[3].word, 1);
		CHECK(pthread_join(thread, NULL) == 0);
	}
}

int main(int argc, char **argv)
{
	rounds = argument(argc, argv, 1, 200);
	errors(&together[0]);
	run_threads(2, all_errors);
	counts();
	wake_and_change();
	signals();
	wake_eagerly();
	run_threads(4, take_turns);
	run_threads(WAITERS, count_under_lock);
	printf("%ld under the lock\n", shared_count);
	return 0;
}
