// SPDX-License-Identifier: GPL-2.0-or-later
/* A file is mapped and shown in maps whatever its name is: any bytes but `/` and 0. */
#include <fcntl.h>
#include <sys/mman.h>

#include "common.h"

static const char *const names[] = {
	"plain", "\303\274 and \377", "carriage\rreturn", "line\nbreak", " blanks ", "\t\034\302\205",
};
enum { NAMES = sizeof names / sizeof *names };

static char *mapped[NAMES];

static void *body(void *index)
{
	(void)index;
	for (int i = 0; i < NAMES; i++)
		CHECK(mapped[i][0] == 'a' + i && mapped[i][PAGE_BYTES - 1] == 'a' + i);
	return NULL;
}

int main(void)
{
	char data[PAGE_BYTES], path[200], line[1000];
	char folder[] = "/tmp/mapped-names-XXXXXX";
	FILE *maps;

	CHECK(mkdtemp(folder));
	for (int i = 0; i < NAMES; i++) {
		int file, flags = i % 2 ? MAP_SHARED : MAP_PRIVATE;

		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		file = open(path, O_RDWR | O_CREAT, 0600);
		memset(data, 'a' + i, sizeof data);
		CHECK(file >= 0 && write(file, data, sizeof data) == sizeof data);
		mapped[i] = mmap(NULL, sizeof data, PROT_READ, flags, file, 0);
		CHECK(mapped[i] != MAP_FAILED && close(file) == 0);
	}
	run_pair(1, body);
	maps = fopen("/proc/self/maps", "r");
	CHECK(maps);
	while (fgets(line, sizeof line, maps)) {
		const char *name = strstr(line, "mapped-names-");

		if (name)
			fputs(strchr(name, '/'), stdout);
	}
	for (int i = 0; i < NAMES; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		CHECK(unlink(path) == 0);
	}
	CHECK(rmdir(folder) == 0);
	return 0;
}
