// SPDX-License-Identifier: GPL-2.0-or-later
/* Transfers of several MiB in one call, from a thread's own fresh memory. */
#include <fcntl.h>

#include "common.h"

static size_t bytes;
static uint64_t sums[THREADS_MAX];

static void *body(void *index)
{
	const char *folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	uint64_t *out = (uint64_t *)malloc(bytes), *in = (uint64_t *)malloc(bytes);
	int mine = pointer_as_index(index);
	char path[256];

	CHECK(out && in);
	for (size_t i = 0; i < bytes / 8; i++)
		out[i] = i * 2654435761u + (uint64_t)mine;
	snprintf(path, sizeof path, "%s/large_io.XXXXXX", folder);
	int file = mkstemp(path);
	CHECK(file >= 0 && unlink(path) == 0);
	CHECK(write(file, out, bytes) == (ssize_t)bytes);
	CHECK(pread(file, in, bytes, 0) == (ssize_t)bytes);
	CHECK(memcmp(in, out, bytes) == 0);
	for (size_t i = 0; i < bytes / 8; i++)
		sums[mine] += in[i];
	CHECK(close(file) == 0);
	free(out);
	free(in);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 3);
	uint64_t sum = 0;

	bytes = (size_t)argument(argc, argv, 2, 3) << 20;
	run_threads(threads, body);
	for (int i = 0; i < threads; i++)
		sum += sums[i];
	printf("large_io: %" PRIu64 "\n", sum);
	return 0;
}
