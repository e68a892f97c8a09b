// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * micro WHAT COUNT: prints the nanoseconds that one operation takes, median of
 * batches. Main is at home; the one thread it makes is on another host where
 * there is one. What needs two sides is done by those two.
 */
#include "bench.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { BATCHES = 11, LINE = 64 };

static int count, busy;
static double batch_ns[BATCHES];
static char *memory;
static int *order;
static atomic_int turn __attribute__((aligned(PAGE_BYTES)));
static char after_turn[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long shared_count;
static sem_t ping, pong;
static volatile long sink;

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(int batches)
{
	qsort(batch_ns, batches, sizeof *batch_ns, by_value);
	printf("%.1f %.1f %.1f\n", batch_ns[batches / 2], batch_ns[0], batch_ns[batches - 1]);
}

/* What one thread does alone: `step` COUNT times in each batch. */
static void alone(void (*step)(int))
{
	for (int batch = 0; batch < BATCHES; batch++) {
		double began = now_s();

		for (int i = 0; i < count; i++)
			step(i);
		batch_ns[batch] = (now_s() - began) / count * 1e9;
	}
}

static void fence(int i)
{
	(void)i;
	__asm__ volatile("mfence" ::: "memory");
}

static void dirty_fence(int i)
{
	memory[i % 64 * LINE]++;
	__asm__ volatile("mfence" ::: "memory");
}

static void locked_add(int i)
{
	(void)i;
	__asm__ volatile("lock incq %0" : "+m"(shared_count));
}

static void uncontended(int i)
{
	(void)i;
	pthread_mutex_lock(&lock);
	shared_count++;
	pthread_mutex_unlock(&lock);
}

static void small_write(int i)
{
	static int descriptor;

	(void)i;
	if (!descriptor)
		CHECK((descriptor = open("/dev/null", O_WRONLY)) > 0);
	CHECK(write(descriptor, "x", 1) == 1);
}

static void *nothing(void *argument)
{
	return argument;
}

static void create_join(int i)
{
	pthread_t thread;

	(void)i;
	CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

static void (*steps)(int);

static void *alone_elsewhere(void *argument)
{
	alone(steps);
	return argument;
}

/* Two sides by turns: each does its part COUNT times in each batch. */
static void wait_turn(int wanted)
{
	while (atomic_load_explicit(&turn, memory_order_acquire) != wanted)
		if (!busy)
			usleep(50);
}

/* The pages of one batch in an order that no prefetch guesses. */
static void shuffle(void)
{
	uint64_t random = 88172645463325252ULL;

	for (int i = 0; i < count; i++)
		order[i] = i;
	for (int i = count - 1; i > 0; i--) {
		int j = next_bits(&random) % (i + 1), swap = order[i];
		order[i] = order[j];
		order[j] = swap;
	}
}

static int faults_write, faults_in_order;

static void touch_all(int write)
{
	long sum = 0;

	for (int i = 0; i < count; i++) {
		char *at = memory + (long)(faults_in_order ? i : order[i]) * PAGE_BYTES;
		if (write)
			(*at)++;
		else
			sum += *at;
	}
	sink = sum;
}

static void *toucher(void *argument)
{
	for (int batch = 0; batch < BATCHES; batch++) {
		double began;

		wait_turn(2 * batch + 1);
		began = now_s();
		touch_all(faults_write);
		batch_ns[batch] = (now_s() - began) / count * 1e9;
		atomic_store(&turn, 2 * batch + 2);
	}
	return argument;
}

/* Main owns the pages (has written them) and computes or sleeps while they are taken. */
static void own_and_lose(void)
{
	pthread_t thread;

	memory = mmap(NULL, (long)count * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED && (order = malloc(count * sizeof *order)));
	shuffle();
	CHECK(pthread_create(&thread, NULL, toucher, NULL) == 0);
	for (int batch = 0; batch < BATCHES; batch++) {
		for (long at = 0; at < (long)count * PAGE_BYTES; at += 8)
			memory[at]++;
		atomic_store(&turn, 2 * batch + 1);
		if (busy)
			while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * batch + 2)
				for (volatile int i = 0; i < 100000; i++)
					;
		else
			wait_turn(2 * batch + 2);
	}
	CHECK(pthread_join(thread, NULL) == 0);
}

static void *adder(void *argument)
{
	for (int i = 0; i < count; i++) {
		pthread_mutex_lock(&lock);
		shared_count++;
		pthread_mutex_unlock(&lock);
	}
	return argument;
}

static void *atomic_adder(void *argument)
{
	for (int i = 0; i < count; i++)
		locked_add(i);
	return argument;
}

static void *barrier_side(void *argument)
{
	for (int i = 0; i < count; i++)
		meet();
	return argument;
}

static void *semaphore_side(void *argument)
{
	for (int i = 0; i < count; i++) {
		sem_wait(&ping);
		sem_post(&pong);
	}
	return argument;
}

static void *semaphore_main(void *argument)
{
	for (int i = 0; i < count; i++) {
		sem_post(&ping);
		sem_wait(&pong);
	}
	return argument;
}

/* Both sides COUNT times; an operation is one of one side. */
static void both(void *(*mine)(void *), void *(*theirs)(void *), int sides)
{
	for (int batch = 0; batch < BATCHES; batch++) {
		pthread_t thread;
		double began;

		CHECK(pthread_create(&thread, NULL, theirs, NULL) == 0);
		began = now_s();
		mine(NULL);
		CHECK(pthread_join(thread, NULL) == 0);
		batch_ns[batch] = (now_s() - began) / count / sides * 1e9;
	}
}

static void elsewhere(void (*step)(int))
{
	pthread_t thread;

	steps = step;
	CHECK(pthread_create(&thread, NULL, alone_elsewhere, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	threads = 2;
	CHECK(pthread_barrier_init(&together, NULL, 2) == 0);
	CHECK(sem_init(&ping, 0, 0) == 0 && sem_init(&pong, 0, 0) == 0);
	count = argument(argc, argv, 2, 1000);
	busy = strstr(what, "-busy") != NULL;
	faults_write = strncmp(what, "write-fault", 11) == 0;
	faults_in_order = strncmp(what, "stream", 6) == 0;
	if (strcmp(what, "fence") == 0)
		alone(fence);
	else if (strcmp(what, "locked-add") == 0)
		alone(locked_add);
	else if (strcmp(what, "uncontended-lock") == 0)
		alone(uncontended);
	else if (strcmp(what, "create-join") == 0)
		alone(create_join);
	else if (strcmp(what, "system-call") == 0)
		elsewhere(small_write);
	else if (strcmp(what, "fence-elsewhere") == 0)
		elsewhere(fence);
	else if (strcmp(what, "dirty-fence-elsewhere") == 0) {
		memory = after_turn;
		elsewhere(dirty_fence);
	} else if (strncmp(what, "read-fault", 10) == 0 || faults_write || faults_in_order)
		own_and_lose();
	else if (strcmp(what, "contended-lock") == 0)
		both(adder, adder, 2);
	else if (strcmp(what, "contended-add") == 0)
		both(atomic_adder, atomic_adder, 2);
	else if (strcmp(what, "barrier") == 0)
		both(barrier_side, barrier_side, 1);
	else if (strcmp(what, "semaphore") == 0)
		both(semaphore_main, semaphore_side, 1);
	else
		CHECK(!"unknown operation");
	report(BATCHES);
	return 0;
}
