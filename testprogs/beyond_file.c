// SPDX-License-Identifier: GPL-2.0-or-later
/* Mappings longer than their file: to touch them beyond its end is SIGBUS, to have the kernel
 * do so is EFAULT, at home and elsewhere, and what the file grows by is there. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "common.h"

enum { PAGES = 4, DATA_BYTES = 100, PASSES = 2 };

static const struct {
	int protection, flags;
	const char *name;
} KINDS[] = {
	{ PROT_READ, MAP_PRIVATE, "read-only private" },
	{ PROT_READ, MAP_SHARED, "read-only shared" },
	{ PROT_READ | PROT_WRITE, MAP_PRIVATE, "private" },
	{ PROT_READ | PROT_WRITE, MAP_SHARED, "shared" },
};

static char path[] = "/tmp/beyond-file-XXXXXX";
static char data[PAGE_BYTES + DATA_BYTES];
static int writer;
static __thread sigjmp_buf after;
static __thread void *volatile fault_at;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	(void)context;
	CHECK(number == SIGBUS && info->si_code == BUS_ADRERR);
	fault_at = info->si_addr;
	siglongjmp(after, 1);
}

/* Is to load a byte there a bus error? */
static int is_bus_error(volatile char *at)
{
	fault_at = NULL;
	if (sigsetjmp(after, 1) == 0)
		(void)*at;
	else
		CHECK(fault_at == (void *)at);
	return fault_at != NULL;
}

static void check_kind(int protection, int flags, int fd)
{
	int ends[2];
	char *memory = mmap(NULL, PAGES * PAGE_BYTES, protection, flags, fd, 0);

	CHECK(memory != MAP_FAILED && pipe(ends) == 0);
	CHECK(memory[PAGE_BYTES + DATA_BYTES - 1] == 'f' && memory[PAGE_BYTES + DATA_BYTES] == 0);
	CHECK(write(ends[1], memory + PAGE_BYTES, 1) == 1);
	for (int page = 2; page < PAGES; page++) {
		CHECK(is_bus_error(memory + page * PAGE_BYTES));
		CHECK(write(ends[1], memory + page * PAGE_BYTES, 1) == -1 && errno == EFAULT);
		CHECK(open(memory + page * PAGE_BYTES, 0) == -1 && errno == EFAULT);
	}
	if (protection & PROT_WRITE)
		CHECK(read(ends[0], memory + 2 * PAGE_BYTES, 1) == -1 && errno == EFAULT);
	CHECK(ftruncate(writer, 3 * PAGE_BYTES) == 0 && pwrite(writer, "g", 1, 2 * PAGE_BYTES) == 1);
	CHECK(memory[2 * PAGE_BYTES] == 'g' && is_bus_error(memory + 3 * PAGE_BYTES));
	CHECK(write(ends[1], memory + 2 * PAGE_BYTES, 1) == 1);
	CHECK(memory[PAGE_BYTES] == 'f');
	if (!(protection & PROT_WRITE) || flags == MAP_SHARED) { /* else what becomes of it is open */
		CHECK(ftruncate(writer, 10) == 0 && is_bus_error(memory + PAGE_BYTES));
		CHECK(memory[9] == 'f' && memory[10] == 0);
		CHECK(ftruncate(writer, PAGE_BYTES) == 0 && pwrite(writer, data, DATA_BYTES, PAGE_BYTES)
			== DATA_BYTES && pwrite(writer, data, PAGE_BYTES, 0) == PAGE_BYTES);
		CHECK(memory[PAGE_BYTES] == 'f' && memory[10] == 'f');
	}
	CHECK(munmap(memory, PAGES * PAGE_BYTES) == 0);
	CHECK(ftruncate(writer, PAGE_BYTES + DATA_BYTES) == 0);
	CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void *body(void *unused)
{
	int reader = open(path, O_RDONLY);

	(void)unused;
	CHECK(reader >= 0);
	for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
		int is_written = KINDS[i].protection & PROT_WRITE && KINDS[i].flags == MAP_SHARED;

		check_kind(KINDS[i].protection, KINDS[i].flags, is_written ? writer : reader);
		printf("%s: SIGBUS and EFAULT\n", KINDS[i].name);
	}
	CHECK(close(reader) == 0);
	return NULL;
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };

	writer = mkstemp(path);
	memset(data, 'f', sizeof data);
	CHECK(writer >= 0 && write(writer, data, sizeof data) == sizeof data);
	CHECK(sigaction(SIGBUS, &action, NULL) == 0);
	body(NULL);
	for (int pass = 0; pass < PASSES; pass++)
		run_threads(1, body);
	CHECK(unlink(path) == 0);
	return 0;
}
