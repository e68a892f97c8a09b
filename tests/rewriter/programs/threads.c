// SPDX-License-Identifier: GPL-2.0-or-later
/* Mutexes, condition variables, barriers and atomics of every width; sums must be exact. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, ROUNDS = 1500, TURNS = 40 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long plain, turn;
static atomic_char bytes;
static atomic_short shorts;
static atomic_int ints, bits;
static atomic_long longs;
static _Atomic long long wide;
static atomic_flag spin = ATOMIC_FLAG_INIT;
static long spun;

static void *work(void *p)
{
	long id = (long)p;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&mutex);
		plain++;
		pthread_mutex_unlock(&mutex);
		bytes++, shorts += 2, ints -= 3, longs += 5, wide += 0x100000001LL;
		atomic_fetch_or(&bits, 1 << (i % 31));
		atomic_fetch_xor(&bits, 0);
		__sync_synchronize();
		long seen = atomic_load(&longs);
		while (!atomic_compare_exchange_weak(&longs, &seen, seen + 1))
			;
		while (atomic_flag_test_and_set(&spin))
			;
		spun++;
		atomic_flag_clear(&spin);
		free(malloc(i));
	}
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < TURNS; i++) {
		pthread_mutex_lock(&mutex);
		while (turn % THREADS != id)
			pthread_cond_wait(&changed, &mutex);
		turn++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %d %d %d %ld %lld %x %ld %ld\n", plain, bytes, shorts, ints, longs,
	       (long long)wide, bits, spun, turn);
	return 0;
}
