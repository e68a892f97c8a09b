// SPDX-License-Identifier: GPL-2.0-or-later
/* What is written to a file by calls shows in its mappings that are only read, wherever they
 * have been read before. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "common.h"

enum { PAGES = 3, BYTES = PAGES * PAGE_BYTES, PLACE = PAGE_BYTES + 10, WAYS = 6 };

static volatile char *shared, *own;
static int writer, appender, source;
static pthread_barrier_t gate;

/* Writes a letter at PLACE (or, where that is the end of the file, behind it). */
static void write_in_some_way(int way, char letter)
{
	struct iovec part = { &letter, 1 };
	off_t from = letter;

	CHECK(lseek(writer, PLACE, SEEK_SET) == PLACE);
	switch (way) {
	case 0:
		CHECK(write(writer, &letter, 1) == 1);
		break;
	case 1:
		CHECK(pwrite(writer, &letter, 1, PLACE) == 1);
		break;
	case 2:
		CHECK(writev(writer, &part, 1) == 1);
		break;
	case 3:
		CHECK(pwritev(writer, &part, 1, PLACE) == 1);
		break;
	case 4:
		CHECK(sendfile(writer, source, &from, 1) == 1);
		break;
	default:
		CHECK(ftruncate(writer, PLACE) == 0 && write(appender, &letter, 1) == 1);
		CHECK(ftruncate(writer, BYTES) == 0);
	}
}

static void *body(void *index)
{
	for (int turn = 0; turn < 2 * WAYS; turn++) {
		char letter = (char)('a' + turn);

		if (turn % 2 == pointer_as_index(index))
			write_in_some_way(turn / 2, letter);
		pthread_barrier_wait(&gate);
		CHECK(shared[PLACE] == letter && own[PLACE] == letter);
		CHECK(shared[0] == 's' && own[BYTES - 1] == (turn / 2 < WAYS - 1 ? 's' : 0));
		pthread_barrier_wait(&gate);
	}
	return NULL;
}

int main(void)
{
	char name[] = "/tmp/written-file-XXXXXX", other[] = "/tmp/written-file-XXXXXX";
	char data[BYTES];
	int reader;

	memset(data, 's', sizeof data);
	writer = mkstemp(name);
	CHECK(writer >= 0 && write(writer, data, sizeof data) == sizeof data);
	reader = open(name, O_RDONLY);
	appender = open(name, O_WRONLY | O_APPEND);
	for (int i = 0; i < 256; i++)
		data[i] = (char)i;
	source = mkstemp(other);
	CHECK(source >= 0 && write(source, data, 256) == 256);
	CHECK(reader >= 0 && appender >= 0 && unlink(name) == 0 && unlink(other) == 0);
	shared = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, reader, 0);
	own = mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, reader, 0);
	CHECK(shared != MAP_FAILED && own != MAP_FAILED);
	CHECK(pthread_barrier_init(&gate, NULL, 2) == 0);
	run_pair(1, body);
	puts("written_file: seen");
	return 0;
}
