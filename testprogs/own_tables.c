// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads with descriptors and a folder of their own (unshare), on any host, and threads that
 * live on when main has ended, whose own tables are gone: they map files, and look at /proc.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "common.h"

static char path[] = "/tmp/own_tables.XXXXXX";

static void map(int fd, int protection, int flags)
{
	char *memory = mmap(NULL, PAGE_BYTES, protection, flags, fd, 0);

	CHECK(memory != MAP_FAILED && memcmp(memory, "text", 4) == 0);
	CHECK(munmap(memory, PAGE_BYTES) == 0);
}

static void look(const char *name)
{
	char line[8];
	int fd = open(name, O_RDONLY);

	CHECK(fd >= 0 && read(fd, line, 5) == 5 && close(fd) == 0);
}

static void use_files(void)
{
	int fd = open(path, O_RDWR);
	int segment = shmget(IPC_PRIVATE, PAGE_BYTES, IPC_CREAT | 0600);
	int *shared;

	CHECK(fd >= 0 && segment >= 0);
	map(fd, PROT_READ, MAP_PRIVATE);
	map(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	CHECK(close(fd) == 0);
	shared = shmat(segment, NULL, 0);
	CHECK(shared != (void *)-1 && shmctl(segment, IPC_RMID, NULL) == 0);
	*shared = 7;
	CHECK(*shared == 7 && shmdt(shared) == 0);
	CHECK(chdir("/proc/thread-self") == 0);
	look("maps");
	look("status");
	look("stat");
	look("cmdline");
	look("auxv");
}

static void *body(void *index)
{
	stay_on(pointer_as_index(index));
	CHECK(unshare(CLONE_FILES | CLONE_FS) == 0);
	CHECK(open("/dev/null", O_RDONLY) >= 0); /* numbers are others than in main */
	use_files();
	return NULL;
}

/* A thread that has been joined has let go of its memory soon after, not before. */
static int is_empty(const char *name)
{
	char byte;

	for (int i = 0; i < 500; i++) {
		int fd = open(name, O_RDONLY);
		long got = read(fd, &byte, 1);

		CHECK(fd >= 0 && got >= 0 && close(fd) == 0);
		if (got == 0)
			return 1;
		usleep(10000);
	}
	return 0;
}

static void *last(void *main_thread)
{
	char name[64];

	stay_on(1);
	CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
	use_files();
	snprintf(name, sizeof name, "/proc/%d/maps", getpid());
	CHECK(is_empty(name));
	CHECK(unlink(path) == 0);
	puts("own_tables: all mapped");
	exit(0);
}

int main(void)
{
	static pthread_t self;
	pthread_t thread;
	int fd = mkstemp(path);

	CHECK(fd >= 0 && write(fd, "text", 4) == 4 && close(fd) == 0);
	run_threads_at_once((int)sysconf(_SC_NPROCESSORS_ONLN), body);
	CHECK(chdir("/") == 0 && access("tmp", F_OK) == 0);
	self = pthread_self();
	CHECK(pthread_create(&thread, NULL, last, &self) == 0);
	pthread_exit(NULL);
}
