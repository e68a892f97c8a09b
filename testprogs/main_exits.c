// SPDX-License-Identifier: GPL-2.0-or-later
/* main ends first, by pthread_exit; the process ends with its last thread. */
#include "common.h"

static pthread_t main_thread;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int remaining, sum;

static void *body(void *index)
{
	if (pointer_as_index(index) == 0)
		CHECK(pthread_join(main_thread, NULL) == 0);
	pthread_mutex_lock(&lock);
	sum += pointer_as_index(index) + 1;
	if (--remaining == 0)
		printf("main_exits: sum %d\n", sum);
	pthread_mutex_unlock(&lock);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);

	main_thread = pthread_self();
	remaining = threads;
	for (int i = 0; i < threads; i++) {
		pthread_t thread;

		CHECK(pthread_create(&thread, NULL, body, index_as_pointer(i)) == 0);
		CHECK(pthread_detach(thread) == 0);
	}
	pthread_exit(NULL);
}
