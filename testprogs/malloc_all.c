// SPDX-License-Identifier: GPL-2.0-or-later
/* malloc, realloc and free in all threads; half the blocks are freed by another. */
#include "common.h"

enum { SLOTS = 32 };

struct block {
	size_t size;
	unsigned char *bytes;
};

static struct block handed[THREADS_MAX][SLOTS];
static pthread_barrier_t barrier;
static int threads, rounds;
static uint64_t sums[THREADS_MAX];

static uint64_t check_and_free(struct block *block)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < block->size; i++) {
		CHECK(block->bytes[i] == (unsigned char)(block->size + i));
		sum += block->bytes[i];
	}
	free(block->bytes);
	block->bytes = NULL;
	return sum;
}

static struct block make(uint64_t *random)
{
	struct block block = { next_random(random) % 3000 + 1, NULL };

	if (next_random(random) % 16 == 0)
		block.size += 200000; /* past the threshold: a mapping of its own */
	block.bytes = (unsigned char *)malloc(block.size / 2 + 1);
	CHECK(block.bytes);
	block.bytes[0] = (unsigned char)block.size;
	block.bytes = (unsigned char *)realloc(block.bytes, block.size);
	CHECK(block.bytes && block.bytes[0] == (unsigned char)block.size);
	for (size_t i = 0; i < block.size; i++)
		block.bytes[i] = (unsigned char)(block.size + i);
	return block;
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);
	uint64_t random = (uint64_t)mine + 1;

	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < SLOTS; i++) {
			struct block own = make(&random);

			handed[mine][i] = make(&random);
			sums[mine] += check_and_free(&own);
		}
		pthread_barrier_wait(&barrier);
		for (int i = 0; i < SLOTS; i++)
			sums[mine] += check_and_free(&handed[(mine + 1) % threads][i]);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t total = 0;

	threads = argument(argc, argv, 1, 4);
	rounds = argument(argc, argv, 2, 3);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		total += sums[i];
	printf("malloc_all: %" PRIu64 "\n", total);
	return 0;
}
