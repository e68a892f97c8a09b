// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * micro WHAT COUNT BATCHES: prints the nanoseconds that one operation takes:
 * median, least and greatest of batches of COUNT. Main is at home; the one
 * thread it makes is on another host where there is one. What needs two sides
 * is done by those two. What two hosts use has pages of its own. With a fourth
 * argument it stays half a minute, for others to look at.
 */
#include "bench.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { BATCHES_MAX = 31, LINE = 64 };

static int count, batches, busy;
static double batch_ns[BATCHES_MAX];
static char *memory;
static int *order;
static volatile long sink;

/* Padding, not only alignment: no other variable may follow in the same page. */
static union { atomic_int turn; char page[PAGE_BYTES]; } turns __attribute__((aligned(PAGE_BYTES)));
static union { sem_t semaphore; char page[PAGE_BYTES]; } ping, pong
	__attribute__((aligned(PAGE_BYTES)));
static union {
	struct { pthread_mutex_t lock; long count; };
	char page[PAGE_BYTES];
} shared __attribute__((aligned(PAGE_BYTES)));
static char dirty[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(void)
{
	qsort(batch_ns, batches, sizeof *batch_ns, by_value);
	printf("%.3f %.3f %.3f\n", batch_ns[batches / 2], batch_ns[0], batch_ns[batches - 1]);
}

/* What one thread does alone: `step` COUNT times in each batch. */
static void alone(void (*step)(int))
{
	for (int batch = 0; batch < batches; batch++) {
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
	dirty[i % 64 * LINE]++;
	__asm__ volatile("mfence" ::: "memory");
}

static void locked_add(int i)
{
	(void)i;
	__asm__ volatile("lock incq %0" : "+m"(shared.count));
}

static void exchange(int i)
{
	long value = i;

	__asm__ volatile("xchg %0, %1" : "+r"(value), "+m"(shared.count));
}

static void uncontended(int i)
{
	(void)i;
	pthread_mutex_lock(&shared.lock);
	shared.count++;
	pthread_mutex_unlock(&shared.lock);
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

static int faults_write, faults_in_order, faults_of_main, rare;
enum { RARE_MS = 16 };

static void touch(int first, int end, int write, int in_order)
{
	long sum = 0;

	for (int i = first; i < end; i++) {
		char *at = memory + (long)(in_order ? i : order[i]) * PAGE_BYTES;
		if (write)
			(*at)++;
		else
			sum += *at;
	}
	sink = sum;
}

/* For how long this computes, the caches keep nothing of the supervisors'. */
static void compute_for(double s)
{
	double until = now_s() + s;

	while (now_s() < until)
		;
}

static void timed_touch(int batch, int write, int in_order)
{
	int step = rare ? 1 : count;
	double took = 0;

	for (int first = 0; first < count; first += step) {
		if (rare)
			compute_for(RARE_MS * 1e-3);
		double began = now_s();
		touch(first, first + step, write, in_order);
		took += now_s() - began;
	}
	batch_ns[batch] = took / count * 1e9;
}

/* The other side. It reads in order what main is timed to write. */
static void *toucher(void *argument)
{
	for (int batch = 0; batch < batches; batch++) {
		sem_wait(&ping.semaphore);
		if (faults_of_main)
			touch(0, count, 0, 1);
		else
			timed_touch(batch, faults_write, faults_in_order);
		atomic_store(&turns.turn, batch + 1);
		sem_post(&pong.semaphore);
	}
	return argument;
}

static void map_pages(void)
{
	memory = mmap(NULL, (long)count * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
}

/* Main owns the pages (has written them) and computes or sleeps while they are taken. */
static void own_and_lose(void)
{
	pthread_t thread;

	map_pages();
	CHECK((order = malloc(count * sizeof *order)));
	shuffle();
	CHECK(pthread_create(&thread, NULL, toucher, NULL) == 0);
	for (int batch = 0; batch < batches; batch++) {
		for (long at = 0; at < (long)count * PAGE_BYTES; at += 8)
			memory[at]++;
		sem_post(&ping.semaphore);
		while (busy && atomic_load_explicit(&turns.turn, memory_order_acquire) <= batch)
			for (volatile int i = 0; i < 100000; i++)
				;
		sem_wait(&pong.semaphore);
		if (faults_of_main)
			timed_touch(batch, 1, 0);
	}
	CHECK(pthread_join(thread, NULL) == 0);
}

/* Memory that nobody has touched yet, in order. */
static void first_touch(void)
{
	for (int batch = 0; batch < batches; batch++) {
		map_pages();
		timed_touch(batch, 1, 1);
		CHECK(munmap(memory, (long)count * PAGE_BYTES) == 0);
	}
}

static void *adder(void *argument)
{
	int times = count;

	for (int i = 0; i < times; i++) {
		pthread_mutex_lock(&shared.lock);
		shared.count++;
		pthread_mutex_unlock(&shared.lock);
	}
	return argument;
}

static void *atomic_adder(void *argument)
{
	int times = count;

	for (int i = 0; i < times; i++)
		locked_add(i);
	return argument;
}

static void *barrier_side(void *argument)
{
	int times = count;

	for (int i = 0; i < times; i++)
		meet();
	return argument;
}

static void *semaphore_side(void *argument)
{
	int times = count;

	for (int i = 0; i < times; i++) {
		sem_wait(&ping.semaphore);
		sem_post(&pong.semaphore);
	}
	return argument;
}

static void *semaphore_main(void *argument)
{
	int times = count;

	for (int i = 0; i < times; i++) {
		sem_post(&ping.semaphore);
		sem_wait(&pong.semaphore);
	}
	return argument;
}

/* Both sides COUNT times; an operation is one of one side. */
static void both(void *(*mine)(void *), void *(*theirs)(void *), int sides)
{
	for (int batch = 0; batch < batches; batch++) {
		pthread_t thread;
		double began;

		CHECK(pthread_create(&thread, NULL, theirs, NULL) == 0);
		began = now_s();
		mine(NULL);
		CHECK(pthread_join(thread, NULL) == 0);
		batch_ns[batch] = (now_s() - began) / ((double)count * sides) * 1e9;
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
	CHECK(sem_init(&ping.semaphore, 0, 0) == 0 && sem_init(&pong.semaphore, 0, 0) == 0);
	CHECK(pthread_mutex_init(&shared.lock, NULL) == 0);
	count = argument(argc, argv, 2, 1000);
	batches = argument(argc, argv, 3, 11);
	CHECK(count > 0 && batches > 0 && batches <= BATCHES_MAX);
	busy = strstr(what, "-busy") != NULL;
	rare = strstr(what, "-rare") != NULL;
	faults_write = strncmp(what, "write-fault", 11) == 0;
	faults_in_order = strcmp(what, "stream") == 0;
	faults_of_main = strcmp(what, "local-fault") == 0;
	if (strcmp(what, "fence") == 0)
		alone(fence);
	else if (strcmp(what, "dirty-fence") == 0)
		alone(dirty_fence);
	else if (strcmp(what, "locked-add") == 0)
		alone(locked_add);
	else if (strcmp(what, "exchange") == 0)
		alone(exchange);
	else if (strcmp(what, "uncontended-lock") == 0)
		alone(uncontended);
	else if (strcmp(what, "create-join") == 0)
		alone(create_join);
	else if (strcmp(what, "first-touch") == 0)
		first_touch();
	else if (strcmp(what, "system-call-elsewhere") == 0)
		elsewhere(small_write);
	else if (strcmp(what, "fence-elsewhere") == 0)
		elsewhere(fence);
	else if (strcmp(what, "dirty-fence-elsewhere") == 0)
		elsewhere(dirty_fence);
	else if (strncmp(what, "read-fault", 10) == 0 || faults_write || faults_in_order ||
		 faults_of_main)
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
	report();
	if (argc > 4) {
		fflush(stdout);
		sleep(30);
	}
	return 0;
}
