// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread ends holding a robust mutex; the next owner is told and repairs it. */
#include "common.h"

static pthread_mutex_t lock;
static long value;

static void *dies_holding(void *unused)
{
	(void)unused;
	CHECK(pthread_mutex_lock(&lock) == 0);
	value = 1;
	return NULL;
}

static void *repairs(void *unused)
{
	(void)unused;
	CHECK(pthread_mutex_lock(&lock) == EOWNERDEAD);
	CHECK(value == 1);
	value = 2;
	CHECK(pthread_mutex_consistent(&lock) == 0);
	CHECK(pthread_mutex_unlock(&lock) == 0);
	return NULL;
}

static void *gives_up(void *unused)
{
	(void)unused;
	CHECK(pthread_mutex_lock(&lock) == EOWNERDEAD);
	CHECK(pthread_mutex_unlock(&lock) == 0); /* not repaired: lost for good */
	return NULL;
}

int main(void)
{
	pthread_mutexattr_t robust;

	CHECK(pthread_mutexattr_init(&robust) == 0);
	CHECK(pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0);
	CHECK(pthread_mutex_init(&lock, &robust) == 0);
	run_threads(1, dies_holding);
	run_threads(1, repairs);
	CHECK(pthread_mutex_lock(&lock) == 0 && value == 2);
	CHECK(pthread_mutex_unlock(&lock) == 0);
	run_threads(1, dies_holding);
	run_threads(1, gives_up);
	CHECK(pthread_mutex_lock(&lock) == ENOTRECOVERABLE);
	printf("robust_mutex: %ld\n", value);
	return 0;
}
