// SPDX-License-Identifier: GPL-2.0-or-later
/* Reads and writes of one file from all threads: positioned, vectored, appended. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "common.h"

enum { BLOCK = 6000, RECORD = 16 };

static char path[256];
static int file, appended, threads, records;
static pthread_barrier_t barrier;
static uint64_t sums[THREADS_MAX];

static unsigned char byte_at(int block, int offset)
{
	return (unsigned char)(block * 31 + offset * 7);
}

static void write_block(int block)
{
	unsigned char *bytes = (unsigned char *)malloc(BLOCK);
	struct iovec parts[3] = { { bytes, 100 }, { bytes + 100, 4000 }, { bytes + 4100, BLOCK - 4100 } };

	CHECK(bytes);
	for (int i = 0; i < BLOCK; i++)
		bytes[i] = byte_at(block, i);
	if (block % 2)
		CHECK(pwrite(file, bytes, BLOCK, (off_t)block * BLOCK) == BLOCK);
	else
		CHECK(pwritev(file, parts, 3, (off_t)block * BLOCK) == BLOCK);
	free(bytes);
}

static uint64_t read_block(int block)
{
	unsigned char *bytes = (unsigned char *)malloc(BLOCK);
	int own = open(path, O_RDONLY | O_CLOEXEC);
	struct iovec parts[2] = { { bytes, 5000 }, { bytes + 5000, BLOCK - 5000 } };
	uint64_t sum = 0;

	CHECK(bytes && own >= 0);
	CHECK(pread(file, bytes, BLOCK, (off_t)block * BLOCK) == BLOCK);
	for (int i = 0; i < BLOCK; i++)
		CHECK(bytes[i] == byte_at(block, i));
	memset(bytes, 0, BLOCK);
	CHECK(lseek(own, (off_t)block * BLOCK, SEEK_SET) == (off_t)block * BLOCK);
	CHECK(readv(own, parts, 2) == BLOCK);
	for (int i = 0; i < BLOCK; i++)
		sum += bytes[i];
	CHECK(close(own) == 0);
	free(bytes);
	return sum;
}

static void append_records(int mine)
{
	char record[32]; /* room for any int: gcc looks */

	for (int i = 0; i < records; i++) {
		snprintf(record, sizeof record, "%07d%08d\n", mine % 100, i % 10000000);
		struct iovec parts[2] = { { record, 7 }, { record + 7, RECORD - 7 } };
		CHECK(writev(appended, parts, 2) == RECORD);
	}
}

static void *body(void *index)
{
	int mine = pointer_as_index(index);

	write_block(mine);
	append_records(mine);
	pthread_barrier_wait(&barrier);
	sums[mine] = read_block((mine + 1) % threads);
	return NULL;
}

/* Every record whole, and each thread's in order. */
static long check_records(const char *name)
{
	int next[THREADS_MAX] = { 0 };
	int own = open(name, O_RDONLY), writer, number;
	char record[RECORD + 1] = { 0 };
	long count = 0;

	CHECK(own >= 0);
	while (read(own, record, RECORD) == RECORD) {
		CHECK(sscanf(record, "%7d%8d", &writer, &number) == 2);
		CHECK(writer >= 0 && writer < threads && next[writer]++ == number);
		count++;
	}
	CHECK(close(own) == 0);
	return count;
}

int main(int argc, char **argv)
{
	const char *folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	char second[256];
	struct stat facts;
	uint64_t sum = 0;

	threads = argument(argc, argv, 1, 4);
	records = argument(argc, argv, 2, 20);
	snprintf(path, sizeof path, "%s/file_io.XXXXXX", folder);
	snprintf(second, sizeof second, "%s/file_io.XXXXXX", folder);
	file = mkstemp(path);
	appended = mkostemp(second, O_APPEND);
	CHECK(file >= 0 && appended >= 0);
	CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
	run_threads_at_once(threads, body);
	CHECK(fstat(file, &facts) == 0 && facts.st_size == (off_t)threads * BLOCK);
	long count = check_records(second);
	CHECK(count == (long)threads * records);
	CHECK(ftruncate(file, 10) == 0 && fstat(file, &facts) == 0 && facts.st_size == 10);
	CHECK(unlink(path) == 0 && unlink(second) == 0 && stat(path, &facts) == -1);
	for (int i = 0; i < threads; i++)
		sum += sums[i];
	printf("file_io: sum %" PRIu64 " records %ld\n", sum, count);
	return 0;
}
