// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Files of /proc and /sys cannot be mapped, nor written where they are opened to be read.
 * They are made anew when they are read from the beginning again, and have names and no size.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

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

static void named(const char *name, int fd)
{
	char path[64], target[128] = "";
	struct stat about, plain;
	struct statfs system;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(readlink(path, target, sizeof target - 1) > 0);
	CHECK(strcmp(strrchr(target, '/'), strrchr(name, '/')) == 0 && target[0] == '/');
	CHECK(fstat(fd, &about) == 0 && syscall(SYS_fstat, fd, &plain) == 0);
	CHECK(about.st_size == plain.st_size && about.st_ino == plain.st_ino);
	CHECK(fstatfs(fd, &system) == 0);
	printf("  %ld bytes, %ld links, system %lx\n", (long)about.st_size, (long)about.st_nlink,
		(long)system.f_type);
}

static void expect(const char *text, const char *name)
{
	CHECK(memcmp(text, "Name:\t", 6) == 0 && memcmp(text + 6, name, strlen(name)) == 0);
}

static void again(void)
{
	char text[64];
	struct iovec part = {text, sizeof text};
	int fd = open("/proc/thread-self/status", O_RDONLY);

	CHECK(fd >= 0 && prctl(PR_SET_NAME, "first") == 0);
	CHECK(read(fd, text, sizeof text) == sizeof text);
	expect(text, "first\n");
	CHECK(prctl(PR_SET_NAME, "a second") == 0 && pread(fd, text, sizeof text, 0) == sizeof text);
	expect(text, "a second\n");
	CHECK(prctl(PR_SET_NAME, "third") == 0 && lseek(fd, 0, SEEK_SET) == 0);
	CHECK(readv(fd, &part, 1) == sizeof text);
	expect(text, "third\n");
	CHECK(read(fd, text, sizeof text) == sizeof text && memcmp(text, "Name:", 5) != 0);
	CHECK(close(fd) == 0);
}

static void *body(void *unused)
{
	(void)unused;
	again();
	for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
		int fd = open(NAMES[i], O_RDONLY);
		struct stat about;

		CHECK(fd >= 0 && fstat(fd, &about) == 0);
		printf("%s: mode %o, errno %d %d %d\n", NAMES[i], about.st_mode,
			errno_of_mapping(fd, PROT_READ, MAP_PRIVATE),
			errno_of_mapping(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE),
			errno_of_mapping(fd, PROT_READ, MAP_SHARED));
		named(NAMES[i], fd);
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
