// SPDX-License-Identifier: GPL-2.0-or-later
/* while (!flag) against one plain store: it becomes visible in bounded time. */
#include "common.h"

static volatile int flag;
static volatile int seen;
static long value;

static void *waiter(void *unused)
{
	(void)unused;
	unsigned turns = 0;

	seen = 1;
	while (!flag)
		spin_politely(&turns);
	CHECK(value == 42);
	return NULL;
}

int main(void)
{
	pthread_t thread;
	unsigned turns = 0;

	CHECK(pthread_create(&thread, NULL, waiter, NULL) == 0);
	while (!seen)
		spin_politely(&turns);
	value = 42;
	__asm__ volatile("" ::: "memory"); /* the compiler keeps the order; x86 does too */
	flag = 1;
	CHECK(pthread_join(thread, NULL) == 0);
	printf("flag_plain: seen\n");
	return 0;
}
