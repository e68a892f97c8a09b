// SPDX-License-Identifier: GPL-2.0-or-later
/* Producers and consumers around a bounded queue: each item is seen exactly once. */
#include "common.h"

enum { CAPACITY = 8, PRODUCERS = 2, CONSUMERS = 2 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
static int queue[CAPACITY], filled, head, items, taken;
static long sum;

static void produce(int item)
{
	pthread_mutex_lock(&lock);
	while (filled == CAPACITY)
		pthread_cond_wait(&not_full, &lock);
	queue[(head + filled++) % CAPACITY] = item;
	pthread_cond_signal(&not_empty);
	pthread_mutex_unlock(&lock);
}

/* False when all items have been taken. */
static int consume(void)
{
	pthread_mutex_lock(&lock);
	while (filled == 0 && taken < PRODUCERS * items)
		pthread_cond_wait(&not_empty, &lock);
	if (filled == 0) {
		pthread_mutex_unlock(&lock);
		return 0;
	}
	sum += queue[head];
	head = (head + 1) % CAPACITY;
	filled--;
	if (++taken == PRODUCERS * items)
		pthread_cond_broadcast(&not_empty);
	pthread_cond_signal(&not_full);
	pthread_mutex_unlock(&lock);
	return 1;
}

static void *body(void *index)
{
	if (pointer_as_index(index) < PRODUCERS)
		for (int i = 1; i <= items; i++)
			produce(i * (pointer_as_index(index) + 1));
	else
		while (consume())
			;
	return NULL;
}

int main(int argc, char **argv)
{
	items = argument(argc, argv, 1, 150);
	run_threads_at_once(PRODUCERS + CONSUMERS, body);
	printf("condvar: taken %d sum %ld\n", taken, sum);
	CHECK(taken == PRODUCERS * items && sum == 3L * items * (items + 1) / 2);
	return 0;
}
