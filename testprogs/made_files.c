// SPDX-License-Identifier: GPL-2.0-or-later
/* Files of /proc and /sys cannot be mapped, nor written where they are opened to be read. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common.h"

static const char *const NAMES[] = {
	"/proc/self/maps", "/proc/self/status", "/proc/self/cmdline", "/proc/thread-self/stat",
	"/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu/online",
};

static int errno_of_mapping(int fd, int protection, int flags)
{
	void *memory = mmap(NULL, PAGE_BYTES, protection, flags, fd, 0);

	return memory == MAP_FAILED ? errno : 0;
}

static void *body(void *unused)
{
	(void)unused;
	for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
		int fd = open(NAMES[i], O_RDONLY);
		struct stat about;

		CHECK(fd >= 0 && fstat(fd, &about) == 0);
		printf("%s: mode %o, errno %d %d %d\n", NAMES[i], about.st_mode,
			errno_of_mapping(fd, PROT_READ, MAP_PRIVATE),
			errno_of_mapping(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE),
			errno_of_mapping(fd, PROT_READ, MAP_SHARED));
		CHECK(write(fd, "x", 1) == -1 && errno == EBADF);
		CHECK(close(fd) == 0);
	}
	return NULL;
}

int main(void)
{
	body(NULL);
	run_threads(1, body);
	return 0;
}
