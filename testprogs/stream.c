// SPDX-License-Identifier: GPL-2.0-or-later
/* A large area written by one thread and read by another. */
#include <semaphore.h>

#include "common.h"

static sem_t written;
static uint64_t *area, sum;
static size_t words;

static void *writer(void)
{
	for (size_t i = 0; i < words; i++)
		area[i] = i * 0x9e3779b97f4a7c15ULL;
	CHECK(sem_post(&written) == 0);
	return NULL;
}

static void *reader(void)
{
	CHECK(sem_wait(&written) == 0);
	for (size_t i = 0; i < words; i++) {
		CHECK(area[i] == i * 0x9e3779b97f4a7c15ULL);
		sum += area[i] >> 32;
	}
	return NULL;
}

static void *body(void *index)
{
	return pointer_as_index(index) == 1 ? writer() : reader();
}

int main(int argc, char **argv)
{
	words = (size_t)argument(argc, argv, 1, 64) * (1 << 20) / sizeof *area;
	area = (uint64_t *)malloc(words * sizeof *area);
	CHECK(area && sem_init(&written, 0, 0) == 0);
	run_pair(argument(argc, argv, 2, 1), body);
	printf("stream: %zu words sum %" PRIu64 "\n", words, sum);
	free(area);
	return 0;
}
