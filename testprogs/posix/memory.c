// SPDX-License-Identifier: GPL-2.0-or-later
/* Memory: mappings of all kinds, protections, shared memory, limits. */
#include "posix.h"
#include <sys/shm.h>

#ifndef MADV_FREE
#define MADV_FREE 8
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static const size_t PAGE = 4096;
static sigjmp_buf back;
static volatile sig_atomic_t caught_number, caught_code;

static void jumps(int number, siginfo_t *info, void *context)
{
	(void)context;
	caught_number = number;
	caught_code = info->si_code;
	siglongjmp(back, 1);
}

static void catch_faults(void)
{
	handle(SIGSEGV, jumps, 0);
	handle(SIGBUS, jumps, 0);
}

/* The signal that an access raises; 0 for none. */
static int read_raises(const volatile char *at)
{
	if (sigsetjmp(back, 1))
		return caught_number;
	(void)*at;
	return 0;
}

static int write_raises(volatile char *at)
{
	if (sigsetjmp(back, 1))
		return caught_number;
	*at = 1;
	return 0;
}

static char *anonymous(size_t pages, int protection, int flags)
{
	char *at = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	NEED(at != MAP_FAILED);
	return at;
}

static int all(const char *at, size_t length, int value)
{
	for (size_t i = 0; i < length; i++)
		if (at[i] != (char)value)
			return 0;
	return 1;
}

static void *fills(void *arg)
{
	memset(arg, 7, PAGE);
	return NULL;
}

static int temporary(size_t size)
{
	char name[] = "/tmp/posix-memory-XXXXXX";
	int fd = mkstemp(name);

	NEED(fd >= 0);
	unlink(name);
	NEED(ftruncate(fd, (off_t)size) == 0);
	return fd;
}

static int refused(void *result, int error)
{
	return result == MAP_FAILED && errno == error;
}

static void arguments(void)
{
	int fd = temporary(PAGE), writes_only = open("/dev/null", O_WRONLY);
	int reads_only = open("/proc/self/exe", O_RDONLY);
	char *at = anonymous(3, PROT_READ, 0);
	int private = MAP_PRIVATE | MAP_ANONYMOUS;

	PROMISE("no length is EINVAL", refused(mmap(NULL, 0, PROT_READ, private, -1, 0), EINVAL));
	PROMISE("a bad descriptor is EBADF",
		refused(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0), EBADF));
	PROMISE("an offset in a page is EINVAL",
		refused(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 100), EINVAL));
	PROMISE("neither shared nor private is EINVAL",
		refused(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL));
	PROMISE("more than there is is ENOMEM",
		refused(mmap(NULL, (size_t)1 << 47, PROT_READ, private | MAP_NORESERVE, -1, 0),
			ENOMEM));
	PROMISE("an unaligned fixed address is EINVAL",
		refused(mmap(at + 1, PAGE, PROT_READ, private | MAP_FIXED, -1, 0), EINVAL));
	PROMISE("taken, without replacement, is EEXIST",
		refused(mmap(at, PAGE, PROT_READ, private | MAP_FIXED_NOREPLACE, -1, 0), EEXIST));
	PROMISE("a descriptor that cannot be read is EACCES",
		refused(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, writes_only, 0), EACCES));
	PROMISE("munmap of no length is EINVAL", munmap(at, 0) == -1 && errno == EINVAL);
	PROMISE("munmap unaligned is EINVAL", munmap(at + 1, PAGE) == -1 && errno == EINVAL);
	PROMISE("munmap of nothing is well", munmap((void *)0x10000000, PAGE) == 0);
	PROMISE("mprotect unaligned is EINVAL",
		mprotect(at + 1, PAGE, PROT_READ) == -1 && errno == EINVAL);
	munmap(at + PAGE, PAGE);
	PROMISE("mprotect over a hole is ENOMEM",
		mprotect(at, 3 * PAGE, PROT_READ | PROT_WRITE) == -1 && errno == ENOMEM);
	catch_faults();
	PROMISE("after it has changed what is before the hole", write_raises(at) == 0);
	PROMISE("and nothing behind it", write_raises(at + 2 * PAGE) == SIGSEGV);
	mprotect(at, PAGE, PROT_READ);
	NEED(mmap(at + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reads_only, 0) == at + PAGE);
	PROMISE("mprotect to write a file that is open to be read is EACCES",
		mprotect(at, 3 * PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	PROMISE("after it has changed what is before the file", write_raises(at) == 0 &&
		write_raises(at + 2 * PAGE) == SIGSEGV);
	munmap(at + PAGE, PAGE);
	PROMISE("mprotect downwards of what does not grow is EINVAL",
		mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN) == -1 && errno == EINVAL);
	PROMISE("msync over a hole is ENOMEM",
		msync(at, 3 * PAGE, MS_SYNC) == -1 && errno == ENOMEM);
	PROMISE("msync both ways is EINVAL",
		msync(at, PAGE, MS_SYNC | MS_ASYNC) == -1 && errno == EINVAL);
	PROMISE("madvise of a bad kind is EINVAL",
		madvise(at, PAGE, 7777) == -1 && errno == EINVAL);
	PROMISE("mlock over a hole is ENOMEM", mlock(at, 3 * PAGE) == -1 && errno == ENOMEM);
	munmap(at, 3 * PAGE);
	close(fd);
	close(writes_only);
	close(reads_only);
}

static void private_memory(void)
{
	char *at = anonymous(4, PROT_READ | PROT_WRITE, 0), *again;

	catch_faults();
	PROMISE("zero at first", all(at, 4 * PAGE, 0));
	join(start(fills, at));
	PROMISE("another thread's stores are seen", all(at, PAGE, 7));
	again = mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		     -1, 0);
	PROMISE("a fixed one replaces what was there", again == at && all(at, PAGE, 0));
	PROMISE("read-only cannot be written", mprotect(at, PAGE, PROT_READ) == 0 &&
		write_raises(at) == SIGSEGV && read_raises(at) == 0);
	PROMISE("PROT_NONE cannot be read", mprotect(at, PAGE, PROT_NONE) == 0 &&
		read_raises(at) == SIGSEGV);
	PROMISE("and back", mprotect(at, PAGE, PROT_READ | PROT_WRITE) == 0 &&
		write_raises(at) == 0 && *at == 1);
	PROMISE("unmapped is gone", munmap(at + PAGE, PAGE) == 0 &&
		read_raises(at + PAGE) == SIGSEGV && read_raises(at + 2 * PAGE) == 0);
	PROMISE("a hint is taken when free",
		mmap(at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at + PAGE);
	PROMISE("populate and lock", munmap(anonymous(2, PROT_READ | PROT_WRITE,
		MAP_POPULATE | MAP_LOCKED), 2 * PAGE) == 0);
	PROMISE("a stack", munmap(anonymous(2, PROT_READ | PROT_WRITE, MAP_STACK | MAP_NORESERVE),
		2 * PAGE) == 0);
	munmap(at, 4 * PAGE);
}

static void private_files(void)
{
	int fd = temporary(2 * PAGE);
	char *at, byte = 0;

	catch_faults();
	NEED(pwrite(fd, "abcd", 4, 0) == 4);
	at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	PROMISE("has the file's contents", memcmp(at, "abcd", 4) == 0);
	at[0] = 'z';
	PROMISE("a store does not reach the file", pread(fd, &byte, 1, 0) == 1 && byte == 'a');
	munmap(at, 2 * PAGE);
	at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	PROMISE("read-only", write_raises(at) == SIGSEGV && *at == 'a');
	PROMISE("made writable", mprotect(at, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
	at[1] = 'y';
	PROMISE("still private", pread(fd, &byte, 1, 1) == 1 && byte == 'b' && at[1] == 'y');
	munmap(at, 2 * PAGE);
	close(fd);
}

static void fill_file(int fd, size_t pages)
{
	char bytes[PAGE];

	for (size_t i = 0; i < pages; i++) {
		memset(bytes, (int)('a' + i), PAGE);
		NEED(pwrite(fd, bytes, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE);
	}
}

/* Stores are given up, and what comes back is the file's: a page, a hole, a last half page. */
static void discards(int fd, char *at)
{
	memset(at, 1, 4 * PAGE);
	join(start(fills, at + PAGE));
	PROMISE("DONTNEED", madvise(at, 4 * PAGE, MADV_DONTNEED) == 0);
	PROMISE("what comes back is the file's", all(at, PAGE, 'a') && all(at + PAGE, PAGE, 'b'));
	PROMISE("a hole's zeros", all(at + 2 * PAGE, PAGE, 0));
	PROMISE("and a part of a page", all(at + 3 * PAGE, 100, 'd') &&
		all(at + 3 * PAGE + 100, PAGE - 100, 0));
	at[0] = at[PAGE] = 2;
	PROMISE("of one page only", madvise(at + PAGE, PAGE, MADV_DONTNEED) == 0 &&
		at[0] == 2 && all(at + PAGE, PAGE, 'b'));
	PROMISE("the file is as it was", pread(fd, at, PAGE, 0) == (ssize_t)PAGE &&
		all(at, PAGE, 'a'));
}

static void private_file_discards(void)
{
	int fd = temporary(3 * PAGE + 100);
	char *at, *target, bytes[100];

	memset(bytes, 'd', 100);
	fill_file(fd, 2);
	NEED(pwrite(fd, bytes, 100, (off_t)(3 * PAGE)) == 100);
	at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	discards(fd, at);
	munmap(at, 4 * PAGE);
	at = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	PROMISE("made writable", mprotect(at, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
	discards(fd, at);
	target = anonymous(4, PROT_NONE, 0);
	PROMISE("moved", mremap(at, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) ==
		target);
	discards(fd, target);
	at = anonymous(4, PROT_NONE, 0);
	PROMISE("moved, and shorter", mremap(target, 4 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		at) == at);
	munmap(at + PAGE, 3 * PAGE);
	PROMISE("grown", (target = mremap(at, PAGE, 4 * PAGE, MREMAP_MAYMOVE)) != MAP_FAILED &&
		all(target + PAGE, PAGE, 'b') && target[3 * PAGE] == 'd');
	discards(fd, target);
	PROMISE("in a middle page nothing of the file's is left of another mapping",
		mmap(target + PAGE, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == target + PAGE &&
		madvise(target, 4 * PAGE, MADV_DONTNEED) == 0 && all(target + PAGE, PAGE, 0) &&
		all(target, PAGE, 'a') && target[3 * PAGE] == 'd');
	munmap(target, 4 * PAGE);
	at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, (off_t)PAGE);
	NEED(at != MAP_FAILED);
	close(fd);
	at[0] = 1;
	PROMISE("with its descriptor closed and its name gone",
		madvise(at, PAGE, MADV_DONTNEED) == 0 && all(at, PAGE, 'b'));
	munmap(at, PAGE);
}

static int is_bus_error(int number)
{
	return number == SIGBUS && caught_code == BUS_ADRERR;
}

/* The last of three pages is beyond the end of the file. */
static void ends_before(int fd, char *at)
{
	int status;

	PROMISE("a load beyond the end is SIGBUS", is_bus_error(read_raises(at + 2 * PAGE + 5)));
	PROMISE("a store is, too", is_bus_error(write_raises(at + 2 * PAGE + 5)));
	PROMISE("the last page of it is there", write_raises(at + PAGE + 200) == 0 &&
		at[PAGE + 200] == 1 && at[0] == 'a');
	if (fork() == 0)
		_exit(is_bus_error(read_raises(at + 2 * PAGE)) && at[PAGE + 200] == 1 ? 7 : 1);
	wait(&status);
	PROMISE("a child has it so", WIFEXITED(status) && WEXITSTATUS(status) == 7);
	NEED(ftruncate(fd, (off_t)(3 * PAGE)) == 0 && pwrite(fd, "e", 1, (off_t)(2 * PAGE)) == 1);
	PROMISE("it is there when the file has grown", read_raises(at + 2 * PAGE) == 0 &&
		at[2 * PAGE] == 'e' && write_raises(at + 2 * PAGE) == 0 && at[2 * PAGE] == 1);
	PROMISE("and is private", pread(fd, at, 1, (off_t)(2 * PAGE)) == 1 && at[0] == 'e');
	PROMISE("it is the file's again", madvise(at, 3 * PAGE, MADV_DONTNEED) == 0 &&
		at[0] == 'a' && at[2 * PAGE] == 'e');
	PROMISE("unmapped", munmap(at, 3 * PAGE) == 0 && read_raises(at + 2 * PAGE) == SIGSEGV);
}

static void private_file_ends(void)
{
	int fd = temporary(0);
	char *at;

	catch_faults();
	fill_file(fd, 1);
	NEED(ftruncate(fd, (off_t)(PAGE + 100)) == 0);
	at = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	ends_before(fd, at);
	NEED(ftruncate(fd, (off_t)(PAGE + 100)) == 0);
	at = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	NEED(at != MAP_FAILED);
	PROMISE("made writable", mprotect(at, 3 * PAGE, PROT_READ | PROT_WRITE) == 0);
	ends_before(fd, at);
	close(fd);
}

static void *writes_file(void *arg)
{
	((char *)arg)[1] = 'x';
	return NULL;
}

static void shared_files(void)
{
	int fd = temporary(2 * PAGE), reader;
	char *at, *second, bytes[4], name[64];
	int status;

	catch_faults();
	NEED(pwrite(fd, "abcd", 4, 0) == 4);
	at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	second = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(at != MAP_FAILED && second != MAP_FAILED);
	at[0] = 'z';
	join(start(writes_file, at));
	PROMISE("read sees stores", pread(fd, bytes, 4, 0) == 4 && memcmp(bytes, "zxcd", 4) == 0);
	PROMISE("a second mapping sees them", memcmp(second, "zxcd", 4) == 0);
	second[2] = 'w';
	PROMISE("and the other way round", at[2] == 'w');
	NEED(pwrite(fd, "Q", 1, 3) == 1);
	PROMISE("write is seen through the mapping", at[3] == 'Q' && second[3] == 'Q');
	PROMISE("msync", msync(at, 2 * PAGE, MS_SYNC) == 0);
	if (fork() == 0) {
		int good = memcmp(at, "zxwQ", 4) == 0;

		at[10] = 'c';
		_exit(good);
	}
	wait(&status);
	PROMISE("a child has it", WIFEXITED(status) && WEXITSTATUS(status) == 1);
	PROMISE("a child's stores are seen", at[10] == 'c' && second[10] == 'c');
	PROMISE("beyond the end is SIGBUS", ftruncate(fd, 100) == 0 &&
		read_raises(at + PAGE) == SIGBUS);
	PROMISE("the rest of the last page is zero", at[200] == 0);
	PROMISE("longer again", ftruncate(fd, (off_t)(2 * PAGE)) == 0 &&
		read_raises(at + PAGE) == 0 && at[PAGE] == 0 && at[0] == 'z');
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	reader = open(name, O_RDONLY);
	NEED(reader >= 0);
	PROMISE("writable of a read-only descriptor is EACCES",
		refused(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), EACCES));
	munmap(second, PAGE);
	second = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reader, 0);
	NEED(second != MAP_FAILED);
	PROMISE("mprotect cannot make it so: EACCES",
		mprotect(second, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	close(fd);
	close(reader);
	at[0] = 'k';
	PROMISE("it outlives its descriptor", second[0] == 'k');
	munmap(at, 2 * PAGE);
	munmap(second, PAGE);
}

static void resizing(void)
{
	char *at = anonymous(2, PROT_READ | PROT_WRITE, 0), *moved, *target;
	int fd = temporary(4 * PAGE);

	catch_faults();
	memset(at, 5, 2 * PAGE);
	moved = mremap(at, 2 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
	PROMISE("grows, with its contents", moved != MAP_FAILED && all(moved, 2 * PAGE, 5) &&
		all(moved + 2 * PAGE, 62 * PAGE, 0));
	PROMISE("shrinks", mremap(moved, 64 * PAGE, PAGE, 0) == moved &&
		read_raises(moved + PAGE) == SIGSEGV && *moved == 5);
	target = anonymous(4, PROT_READ | PROT_WRITE, 0);
	at = mremap(moved, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
	PROMISE("moves to an address", at == target + PAGE && *at == 5 &&
		read_raises(moved) == SIGSEGV);
	PROMISE("what lies there is in the way: ENOMEM",
		refused(mremap(target, PAGE, 2 * PAGE, 0), ENOMEM));
	PROMISE("unaligned is EINVAL", refused(mremap(at + 1, PAGE, PAGE, 0), EINVAL));
	PROMISE("no new length is EINVAL", refused(mremap(at, PAGE, 0, 0), EINVAL));
	PROMISE("a bad flag is EINVAL", refused(mremap(at, PAGE, PAGE, 64), EINVAL));
	PROMISE("of nothing is EFAULT",
		refused(mremap((void *)0x10000000, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT));
	munmap(target, 4 * PAGE);
	NEED(pwrite(fd, "s", 1, (off_t)(3 * PAGE)) == 1);
	at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(at != MAP_FAILED);
	at[0] = 'f';
	at = mremap(at, PAGE, 4 * PAGE, MREMAP_MAYMOVE);
	PROMISE("a shared file's grows", at != MAP_FAILED && at[0] == 'f' && at[3 * PAGE] == 's');
	if (at != MAP_FAILED) {
		char byte;

		at[3 * PAGE] = 't';
		PROMISE("and is still the file's", pread(fd, &byte, 1, (off_t)(3 * PAGE)) == 1 &&
			byte == 't');
		munmap(at, 4 * PAGE);
	}
	at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	at[PAGE] = 9;
	moved = mremap(at, 0, 2 * PAGE, MREMAP_MAYMOVE);
	PROMISE("a shared one is doubled by an old length of 0",
		moved != MAP_FAILED && moved[PAGE] == 9);
	if (moved != MAP_FAILED) {
		moved[0] = 8;
		PROMISE("both are the same memory", at[0] == 8);
	}
	close(fd);
}

static void advice(void)
{
	char *at = anonymous(4, PROT_READ | PROT_WRITE, 0), *shared;
	int fd;

	memset(at, 3, 4 * PAGE);
	PROMISE("DONTNEED makes zero", madvise(at, 2 * PAGE, MADV_DONTNEED) == 0 &&
		all(at, 2 * PAGE, 0) && all(at + 2 * PAGE, 2 * PAGE, 3));
	join(start(fills, at));
	PROMISE("DONTNEED of what another thread wrote",
		madvise(at, PAGE, MADV_DONTNEED) == 0 && all(at, PAGE, 0));
	PROMISE("FREE", madvise(at, 4 * PAGE, MADV_FREE) == 0);
	at[0] = 1;
	PROMISE("what is written after it stays", at[0] == 1);
	PROMISE("hints", madvise(at, 4 * PAGE, MADV_WILLNEED) == 0 &&
		madvise(at, 4 * PAGE, MADV_SEQUENTIAL) == 0 &&
		madvise(at, 4 * PAGE, MADV_RANDOM) == 0 && madvise(at, 4 * PAGE, MADV_NORMAL) == 0 &&
		madvise(at, 4 * PAGE, MADV_DONTDUMP) == 0);
	PROMISE("REMOVE of private memory is EINVAL",
		madvise(at, PAGE, MADV_REMOVE) == -1 && errno == EINVAL);
	PROMISE("posix_madvise", posix_madvise(at, PAGE, POSIX_MADV_WILLNEED) == 0);
	PROMISE("POPULATE", madvise(at, 4 * PAGE, MADV_POPULATE_READ) == 0 &&
		madvise(at, 4 * PAGE, MADV_POPULATE_WRITE) == 0);
	PROMISE("to read, of what is read-only", mprotect(at, PAGE, PROT_READ) == 0 &&
		madvise(at, 4 * PAGE, MADV_POPULATE_READ) == 0);
	PROMISE("to write is EINVAL",
		madvise(at, 4 * PAGE, MADV_POPULATE_WRITE) == -1 && errno == EINVAL);
	memset(at + PAGE, 3, 3 * PAGE);
	munmap(at + 2 * PAGE, PAGE);
	PROMISE("POPULATE of a hole is ENOMEM",
		madvise(at, 4 * PAGE, MADV_POPULATE_READ) == -1 && errno == ENOMEM);
	PROMISE("DONTNEED over a hole is ENOMEM",
		madvise(at, 4 * PAGE, MADV_DONTNEED) == -1 && errno == ENOMEM);
	PROMISE("and is done on either side of it", all(at + PAGE, PAGE, 0) &&
		all(at + 3 * PAGE, PAGE, 0));
	PROMISE("a hint over a hole is ENOMEM",
		madvise(at, 4 * PAGE, MADV_SEQUENTIAL) == -1 && errno == ENOMEM);
	PROMISE("a bad kind over a hole is EINVAL",
		madvise(at, 4 * PAGE, 7777) == -1 && errno == EINVAL);
	munmap(at, 4 * PAGE);
	fd = memfd_create("posix", MFD_CLOEXEC);
	NEED(fd >= 0 && ftruncate(fd, (off_t)(2 * PAGE)) == 0);
	shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(shared != MAP_FAILED);
	memset(shared, 4, 2 * PAGE);
	PROMISE("DONTNEED of shared memory keeps it",
		madvise(shared, PAGE, MADV_DONTNEED) == 0 && all(shared, PAGE, 4));
	PROMISE("REMOVE of it makes zero", madvise(shared, PAGE, MADV_REMOVE) == 0 &&
		all(shared, PAGE, 0) && all(shared + PAGE, PAGE, 4));
	munmap(shared, 2 * PAGE);
	close(fd);
}

static void fork_advice(void)
{
	char *at = anonymous(5, PROT_READ | PROT_WRITE, 0);
	int status;

	at[0] = 5;
	at[PAGE] = 6;
	at[2 * PAGE] = at[4 * PAGE] = 7;
	PROMISE("WIPEONFORK", madvise(at, PAGE, MADV_WIPEONFORK) == 0);
	if (fork() == 0)
		_exit(at[0] * 16 + at[PAGE]);
	wait(&status);
	PROMISE("is zero in a child", WIFEXITED(status) && WEXITSTATUS(status) == 6);
	PROMISE("and not here", at[0] == 5);
	munmap(at + 3 * PAGE, PAGE);
	PROMISE("over a hole: ENOMEM", madvise(at + 2 * PAGE, 3 * PAGE, MADV_WIPEONFORK) == -1 &&
		errno == ENOMEM);
	if (fork() == 0)
		_exit(at[2 * PAGE] + at[4 * PAGE]);
	wait(&status);
	PROMISE("what is there is advised", WIFEXITED(status) && WEXITSTATUS(status) == 0);
	PROMISE("DONTFORK", madvise(at, PAGE, MADV_DONTFORK) == 0);
	if (fork() == 0) {
		catch_faults();
		_exit(read_raises(at) == SIGSEGV && at[PAGE] == 6);
	}
	wait(&status);
	PROMISE("is not there in a child", WIFEXITED(status) && WEXITSTATUS(status) == 1);
	munmap(at, 5 * PAGE);
}

static void locks(void)
{
	char *at = anonymous(2, PROT_READ | PROT_WRITE, 0);
	unsigned char in_core[2] = {0, 0};

	at[0] = 1;
	PROMISE("mlock", mlock(at, 2 * PAGE) == 0);
	PROMISE("mincore has it", mincore(at, 2 * PAGE, in_core) == 0 && in_core[0] & 1);
	PROMISE("munlock", munlock(at, 2 * PAGE) == 0);
	PROMISE("mlockall of nothing is EINVAL", mlockall(0) == -1 && errno == EINVAL);
	PROMISE("munlockall", munlockall() == 0);
	PROMISE("mincore of nothing is ENOMEM",
		mincore((void *)0x10000000, PAGE, in_core) == -1 && errno == ENOMEM);
	munmap(at, 2 * PAGE);
}

static void breaks(void)
{
	char *before = sbrk(0), *grown;

	catch_faults();
	grown = sbrk((intptr_t)(4 * PAGE));
	PROMISE("grows", grown == before && (char *)sbrk(0) == before + 4 * PAGE);
	PROMISE("zero at first", all(before + PAGE, 2 * PAGE, 0));
	before[4 * PAGE - 1] = 1;
	PROMISE("shrinks", brk(before) == 0 && sbrk(0) == before);
	PROMISE("what it gave up is gone", read_raises(before + 4 * PAGE - 1) == SIGSEGV);
	PROMISE("zero when it grows again", sbrk((intptr_t)(4 * PAGE)) == before &&
		before[4 * PAGE - 1] == 0);
	PROMISE("too much is ENOMEM", brk((void *)0x7ffffffff000) == -1 && errno == ENOMEM);
	brk(before);
}

struct talk {
	atomic_int parent, child, thread;
	char text[64];
};

static void *adds(void *arg)
{
	struct talk *talk = arg;

	for (int i = 0; i < 300; i++)
		atomic_fetch_add(&talk->thread, 1);
	return NULL;
}

/* A parent and a child, both with a thread more, by the same memory. */
static void talks(struct talk *talk)
{
	pthread_t thread;
	int status;
	pid_t child;

	strcpy(talk->text, "before the fork");
	child = fork();
	if (child == 0) {
		int good = strcmp(talk->text, "before the fork") == 0;

		thread = start(adds, talk);
		adds(talk);
		join(thread);
		atomic_store(&talk->child, 1);
		good &= reached(&talk->parent, 1);
		good &= strcmp(talk->text, "from the parent") == 0;
		strcpy(talk->text, "from the child");
		atomic_store(&talk->child, 2);
		_exit(good ? 0 : 1);
	}
	thread = start(adds, talk);
	adds(talk);
	join(thread);
	PROMISE("a child's store is seen", reached(&talk->child, 1));
	PROMISE("additions of all threads of both", atomic_load(&talk->thread) == 1200);
	strcpy(talk->text, "from the parent");
	atomic_store(&talk->parent, 1);
	PROMISE("and answers", reached(&talk->child, 2) &&
		strcmp(talk->text, "from the child") == 0);
	NEED(waitpid(child, &status, 0) == child);
	PROMISE("the child has seen the parent's", WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void shared_anonymous(void)
{
	struct talk *talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				 -1, 0);

	NEED(talk != MAP_FAILED);
	PROMISE("zero at first", all((char *)talk, PAGE, 0));
	talks(talk);
	munmap(talk, PAGE);
}

static void shared_zero(void)
{
	int fd = open("/dev/zero", O_RDWR);
	struct talk *talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	PROMISE("/dev/zero can be mapped", talk != MAP_FAILED);
	if (talk != MAP_FAILED)
		talks(talk);
	close(fd);
}

static void shared_memory_objects(void)
{
	char name[64];
	struct talk *talk;
	int fd;

	snprintf(name, sizeof name, "/posix-memory-%d", (int)getpid());
	PROMISE("open of none is ENOENT", shm_open(name, O_RDWR, 0) == -1 && errno == ENOENT);
	fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
	PROMISE("create", fd >= 0);
	PROMISE("create again is EEXIST",
		shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600) == -1 && errno == EEXIST);
	NEED(ftruncate(fd, (off_t)PAGE) == 0);
	talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(talk != MAP_FAILED);
	PROMISE("unlink", shm_unlink(name) == 0);
	PROMISE("unlink again is ENOENT", shm_unlink(name) == -1 && errno == ENOENT);
	close(fd);
	talks(talk);
	munmap(talk, PAGE);
}

static void shared_memfd(void)
{
	int fd = memfd_create("posix", 0);
	struct talk *talk, *second;

	NEED(fd >= 0 && ftruncate(fd, (off_t)PAGE) == 0);
	talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	second = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(talk != MAP_FAILED && second != MAP_FAILED);
	join(start(adds, second));
	PROMISE("two mappings are the same memory", atomic_load(&talk->thread) == 300);
	atomic_store(&talk->thread, 0);
	talks(talk);
	munmap(talk, PAGE);
	munmap(second, PAGE);
	close(fd);
}

static void segments(void)
{
	int id = shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600);
	struct talk *talk, *second;
	struct shmid_ds info;

	catch_faults();
	PROMISE("get", id >= 0);
	PROMISE("attach of a bad one is EINVAL",
		shmat(0x7fffffff, NULL, 0) == (void *)-1 && errno == EINVAL);
	talk = shmat(id, NULL, 0);
	PROMISE("attach", talk != (void *)-1);
	if (talk == (void *)-1) {
		shmctl(id, IPC_RMID, NULL);
		return;
	}
	second = shmat(id, NULL, SHM_RDONLY);
	PROMISE("again, read-only", second != (void *)-1 &&
		write_raises((char *)second) == SIGSEGV);
	PROMISE("counts who attach", shmctl(id, IPC_STAT, &info) == 0 && info.shm_nattch == 2 &&
		info.shm_segsz == 2 * PAGE);
	talk->text[5] = 'h';
	PROMISE("the same memory", second->text[5] == 'h');
	PROMISE("detach", shmdt(second) == 0);
	PROMISE("detach again is EINVAL", shmdt(second) == -1 && errno == EINVAL);
	PROMISE("remove", shmctl(id, IPC_RMID, NULL) == 0);
	talks(talk);
	PROMISE("detach the last", shmdt(talk) == 0);
	PROMISE("then it is gone", shmctl(id, IPC_STAT, &info) == -1 && errno == EINVAL &&
		read_raises((char *)talk) == SIGSEGV);
}

static char *ground;

static void *churns(void *arg)
{
	char *mine = ground + (intptr_t)arg * 16 * (intptr_t)PAGE;
	intptr_t good = 1;

	for (int i = 0; i < 60; i++) {
		char *at = mmap(mine, 16 * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		/* Larger than the holes that the others make for a moment. */
		char *other = mmap(NULL, 20 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		good &= at == mine && other != MAP_FAILED;
		good &= at[0] == 0 && at[15 * PAGE] == 0 && other[PAGE] == 0;
		memset(at, i + 1, 16 * PAGE);
		other[PAGE] = (char)i;
		good &= munmap(at + 4 * PAGE, 4 * PAGE) == 0;
		good &= mprotect(at, PAGE, PROT_READ) == 0;
		good &= at[0] == i + 1 && at[15 * PAGE] == i + 1 && other[PAGE] == (char)i;
		good &= munmap(other, 20 * PAGE) == 0;
	}
	return (void *)good;
}

static void concurrency(void)
{
	pthread_t threads[4];
	int good = 1;

	ground = anonymous(64, PROT_READ | PROT_WRITE, 0);
	for (intptr_t i = 0; i < 4; i++)
		threads[i] = start(churns, (void *)i);
	for (int i = 0; i < 4; i++)
		good &= join(threads[i]) != NULL;
	PROMISE("four threads map, unmap and protect at once", good);
	munmap(ground, 64 * PAGE);
}

static void alignment(void)
{
	void *at = NULL;

	PROMISE("posix_memalign", posix_memalign(&at, 1 << 16, 100) == 0 &&
		(uintptr_t)at % (1 << 16) == 0);
	free(at);
	PROMISE("a bad alignment is EINVAL", posix_memalign(&at, 3, 100) == EINVAL);
	PROMISE("sysconf", sysconf(_SC_PAGESIZE) == (long)PAGE && sysconf(_SC_PHYS_PAGES) > 0);
}

static void growing_stacks(void)
{
	char *low = anonymous(1024, PROT_NONE, 0), *at;

	/* The kernel keeps 256 pages below such a mapping free of others. */
	catch_faults();
	munmap(low, 1024 * PAGE);
	at = mmap(low + 1020 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	PROMISE("MAP_GROWSDOWN", at == low + 1020 * PAGE);
	PROMISE("is there", write_raises(at) == 0);
	PROMISE("grows to an access just below", write_raises(at - 100) == 0 &&
		write_raises(at - PAGE - 100) == 0 && at[-100] == 1);
	munmap(low, 1024 * PAGE);
}

/* More mappings than vm.max_map_count (65,530 by default) allows. */
static void too_many(void)
{
	size_t pages = 140000, i;
	char *at = anonymous(pages, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	int result = 0;

	for (i = 1; i < pages && result == 0; i += 2)
		result = mprotect(at + i * PAGE, PAGE, PROT_READ);
	PROMISE("too many protections are ENOMEM", result == -1 && errno == ENOMEM);
	PROMISE("after tens of thousands", i > 60000);
	at[0] = 1;
	PROMISE("memory works on", at[0] == 1 && at[PAGE] == 0);
	PROMISE("unmap", munmap(at, pages * PAGE) == 0);
	PROMISE("then there is room again", munmap(anonymous(2, PROT_READ, 0), 2 * PAGE) == 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"arguments", arguments},
		{"private_memory", private_memory},
		{"private_files", private_files},
		{"private_file_discards", private_file_discards},
		{"private_file_ends", private_file_ends},
		{"shared_files", shared_files},
		{"resizing", resizing},
		{"advice", advice},
		{"fork_advice", fork_advice},
		{"locks", locks},
		{"breaks", breaks},
		{"shared_anonymous", shared_anonymous},
		{"shared_zero", shared_zero},
		{"shared_memory_objects", shared_memory_objects},
		{"shared_memfd", shared_memfd},
		{"segments", segments},
		{"concurrency", concurrency},
		{"alignment", alignment},
		{"growing_stacks", growing_stacks},
		{"too_many", too_many},
	};

	return RUN_TESTS(tests);
}
