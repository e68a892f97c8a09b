// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * System calls whose structures depend on the size of a word, from main and from
 * other threads; and, on i386, the calls that only i386 has.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "common.h"

static int open_scratch(void)
{
	const char *folder = getenv("TMPDIR");
	char name[PATH_MAX];
	int fd;

	snprintf(name, sizeof name, "%s/layoutsXXXXXX", folder ? folder : "/tmp");
	fd = mkstemp64(name);
	CHECK(fd >= 0 && unlink(name) == 0);
	return fd;
}

static void files(void)
{
	int fd = open_scratch();
	char first[3], second[9];
	struct iovec out[2] = { { "abc", 3 }, { "defghijkl", 9 } };
	struct iovec in[2] = { { first, sizeof first }, { second, sizeof second } };
	struct stat status;
	struct statfs system;
	struct flock lock = { .l_type = F_WRLCK, .l_start = 2, .l_len = 5 };
	off_t offset = 1;
	int pipes[2];

	CHECK(writev(fd, out, 2) == 12 && lseek(fd, 0, SEEK_SET) == 0);
	CHECK(readv(fd, in, 2) == 12 && memcmp(second, "defghijkl", 9) == 0);
	CHECK(preadv(fd, in, 2, 1) == 11 && memcmp(first, "bcd", 3) == 0);
	CHECK(fstat(fd, &status) == 0 && status.st_size == 12 && S_ISREG(status.st_mode));
	CHECK(fstatfs(fd, &system) == 0 && system.f_bsize > 0 && system.f_namelen > 0);
	CHECK(fcntl(fd, F_SETLK, &lock) == 0 && fcntl(fd, F_GETLK, &lock) == 0);
	CHECK(lock.l_type == F_UNLCK);
	CHECK(pipe(pipes) == 0 && sendfile(pipes[1], fd, &offset, 3) == 3 && offset == 4);
	CHECK(read(pipes[0], first, 3) == 3 && memcmp(first, "bcd", 3) == 0);
	CHECK(ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "far", 3, 900000) == 3);
	CHECK(pread(fd, first, 3, 900000) == 3 && memcmp(first, "far", 3) == 0);
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
}

static void waiting(void)
{
	int pipes[2];
	struct timeval quarter = { 0, 1000 };
	struct timespec brief = { 0, 1000000 };
	fd_set set;
	struct pollfd polled;
	sigset_t none;

	sigemptyset(&none);
	CHECK(pipe(pipes) == 0 && fcntl(pipes[0], F_DUPFD, 40) >= 40);
	FD_ZERO(&set);
	FD_SET(40, &set);
	CHECK(select(41, &set, NULL, NULL, &quarter) == 0 && !FD_ISSET(40, &set));
	CHECK(write(pipes[1], "x", 1) == 1);
	FD_SET(40, &set);
	CHECK(pselect(41, &set, NULL, NULL, &brief, &none) == 1 && FD_ISSET(40, &set));
	polled = (struct pollfd){ .fd = 40, .events = POLLIN };
	CHECK(ppoll(&polled, 1, &brief, &none) == 1 && polled.revents == POLLIN);
	close(40);
	close(pipes[0]);
	close(pipes[1]);
}

static void sockets(void)
{
	int pair[2], passed = -1, type = 0;
	char text[8] = "", control[CMSG_SPACE(sizeof(int))];
	socklen_t length = sizeof type;
	struct timeval limit = { 3, 5000 }, got = { 0, 0 };
	struct iovec out = { "hello", 5 }, in = { text, sizeof text };
	struct msghdr message = { .msg_iov = &out, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof control };
	struct mmsghdr several[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM);
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
	length = sizeof got;
	CHECK(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &got, &length) == 0 && got.tv_sec == 3);
	memset(control, 0, sizeof control);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &pair[0], sizeof(int));
	CHECK(sendmsg(pair[0], &message, 0) == 5);
	memset(control, 0, sizeof control);
	message.msg_iov = &in;
	message.msg_controllen = sizeof control;
	CHECK(recvmsg(pair[1], &message, 0) == 5 && memcmp(text, "hello", 5) == 0);
	header = CMSG_FIRSTHDR(&message);
	CHECK(header != NULL && header->cmsg_type == SCM_RIGHTS);
	memcpy(&passed, CMSG_DATA(header), sizeof passed);
	CHECK(send(passed, "again", 5, 0) == 5 && recv(pair[1], text, 8, 0) == 5);
	memset(several, 0, sizeof several);
	for (int i = 0; i < 2; i++)
		several[i].msg_hdr = (struct msghdr){ .msg_iov = &out, .msg_iovlen = 1 };
	CHECK(sendmmsg(passed, several, 2, 0) == 2 && several[1].msg_len == 5);
	close(passed);
	close(pair[0]);
	close(pair[1]);
}

static void system_v(void)
{
	struct { long kind; char text[6]; } message = { 7, "queue" }, back;
	struct msqid_ds state;
	struct sembuf up = { 0, 2, 0 }, down = { 0, -1, 0 };
	struct timespec brief = { 0, 1000000 };
	union { int value; struct semid_ds *state; unsigned short *all; } argument;
	struct semid_ds semaphores;
	int queue = msgget(IPC_PRIVATE, 0600), set = semget(IPC_PRIVATE, 1, 0600);
	int segment = shmget(IPC_PRIVATE, 5000, 0600);
	struct shmid_ds shared;

	CHECK(queue >= 0 && msgsnd(queue, &message, 6, 0) == 0);
	CHECK(msgctl(queue, IPC_STAT, &state) == 0 && state.msg_qnum == 1);
	CHECK(msgrcv(queue, &back, 6, 7, 0) == 6 && strcmp(back.text, "queue") == 0);
	CHECK(back.kind == 7 && msgctl(queue, IPC_RMID, NULL) == 0);
	argument.value = 1;
	CHECK(set >= 0 && semctl(set, 0, SETVAL, argument) == 0 && semop(set, &up, 1) == 0);
	CHECK(semtimedop(set, &down, 1, &brief) == 0 && semctl(set, 0, GETVAL) == 2);
	argument.state = &semaphores;
	CHECK(semctl(set, 0, IPC_STAT, argument) == 0 && semaphores.sem_nsems == 1);
	CHECK(semctl(set, 0, IPC_RMID) == 0);
	CHECK(segment >= 0 && shmctl(segment, IPC_STAT, &shared) == 0);
	CHECK(shared.shm_segsz == 5000 && shmctl(segment, IPC_RMID, NULL) == 0);
}

static void accounts(void)
{
	struct rlimit limit;
	struct rusage usage;
	struct tms times_used;
	struct sysinfo machine;
	struct utsname names;
	struct itimerval timer = { { 0, 0 }, { 1000, 0 } }, left;
	struct itimerspec once = { { 0, 0 }, { 0, 1000000 } }, remaining;
	struct timespec resolution, interval;
	gid_t groups[64];
	uid_t real, effective, saved;
	uint64_t ticks = 0;

	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 2);
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_usec < 1000000);
	CHECK(times(&times_used) != (clock_t)-1);
	CHECK(sysinfo(&machine) == 0 && machine.mem_unit > 0 && machine.totalram > 0);
	CHECK(uname(&names) == 0 && strcmp(names.sysname, "Linux") == 0);
	CHECK(getgroups(64, groups) >= 0 && getresuid(&real, &effective, &saved) == 0);
	CHECK(real == getuid() && effective == geteuid());
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0 && getitimer(ITIMER_REAL, &left) == 0);
	CHECK(left.it_value.tv_sec >= 900);
	timer.it_value.tv_sec = 0;
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	CHECK(fd >= 0 && timerfd_settime(fd, 0, &once, NULL) == 0);
	CHECK(read(fd, &ticks, 8) == 8 && ticks == 1 && timerfd_gettime(fd, &remaining) == 0);
	CHECK(remaining.it_value.tv_nsec == 0 && close(fd) == 0);
	CHECK(clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_sec == 0);
	CHECK(sched_rr_get_interval(0, &interval) == 0);
	CHECK(clock_ns(CLOCK_REALTIME) > 0 && clock_ns(CLOCK_THREAD_CPUTIME_ID) > 0);
	CHECK(time(NULL) > 1700000000);
	CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ 0, 100000 }, NULL) == 0);
}

static void children(void)
{
	int status = 0;
	struct rusage usage;
	siginfo_t info;
	pid_t child = fork();

	if (child == 0)
		_exit(17);
	CHECK(child > 0 && waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
	CHECK(info.si_status == 17 && wait4(child, &status, 0, &usage) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
	CHECK(usage.ru_utime.tv_usec < 1000000);
}

#ifdef __i386__
static volatile int handled;

static void on_signal(int number)
{
	CHECK(number == SIGUSR2);
	handled++;
}

/* Calls by their i386 numbers, as libraries of long ago made them. */
static void of_i386_alone(void)
{
	unsigned long pair_arguments[4] = { AF_UNIX, SOCK_DGRAM, 0, 0 };
	int pair[2], fd = open_scratch();
	char text[8] = "";
	unsigned short groups[64];
	unsigned int mask = 0, before = 0;
	long long position = 0;
	struct { unsigned long handler, mask, flags, restorer; } action = { 0, 0, 0, 0 };
	struct { unsigned int entry, base, limit, flags; } area = { 6 + 6, 0, 0, 0 };
	char names[400];
	struct timeval none = { 0, 0 };
	fd_set set;

	pair_arguments[3] = (unsigned long)pair;
	CHECK(syscall(SYS_socketcall, 8, pair_arguments) == 0);
	unsigned long send_arguments[4] = { (unsigned long)pair[0], (unsigned long)"old", 3, 0 };
	CHECK(syscall(SYS_socketcall, 9, send_arguments) == 3);
	unsigned long receive_arguments[6] = { (unsigned long)pair[1], (unsigned long)text, 8, 0, 0, 0 };
	CHECK(syscall(SYS_socketcall, 12, receive_arguments) == 3 && strcmp(text, "old") == 0);
	CHECK(syscall(SYS_socketcall, 99, receive_arguments) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_socketcall, 9, NULL) == -1 && errno == EFAULT);

	unsigned long map_arguments[6] = { 0, 8192, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, (unsigned long)-1, 0 };
	char *mapped = (char *)syscall(SYS_mmap, map_arguments);
	CHECK(mapped != MAP_FAILED);
	mapped[8191] = 1;
	CHECK(munmap(mapped, 8192) == 0);
	CHECK(ftruncate(fd, 5 * 4096) == 0 && pwrite(fd, "page", 4, 4 * 4096) == 4);
	mapped = (char *)syscall(SYS_mmap2, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 4);
	CHECK(mapped != MAP_FAILED && memcmp(mapped, "page", 4) == 0);
	CHECK(munmap(mapped, 4096) == 0);
	CHECK(syscall(SYS__llseek, fd, 1, 2, &position, SEEK_SET) == 0);
	CHECK(position == (1LL << 32) + 2);
	CHECK(syscall(SYS_ftruncate64, fd, 1, 1) == 0 && lseek64(fd, 0, SEEK_END) == (1LL << 32) + 1);
	CHECK(pwrite64(fd, "beyond", 6, (1LL << 32) - 3) == 6);
	CHECK(pread64(fd, text, 6, (1LL << 32) - 3) == 6 - 2 || memcmp(text, "beyond", 6) == 0);

	FD_ZERO(&set);
	FD_SET(pair[0], &set);
	unsigned long select_arguments[5] = { (unsigned long)pair[0] + 1, 0, (unsigned long)&set, 0,
					      (unsigned long)&none };
	CHECK(syscall(SYS_select, select_arguments) == 1 && FD_ISSET(pair[0], &set));
	CHECK(syscall(SYS_getgroups, 64, groups) >= 0);
	CHECK(syscall(SYS_getuid) == (long)(getuid() & 0xffff));
	CHECK(syscall(SYS_uname, names) == 0 && strcmp(names, "Linux") == 0);
	CHECK(syscall(SYS_olduname, names) == 0 && strcmp(names, "Linux") == 0);
	CHECK(syscall(SYS_time, NULL) > 1700000000);

	action.handler = (unsigned long)on_signal;
	CHECK(syscall(SYS_sigaction, SIGUSR2, &action, NULL) == 0);
	mask = 1u << (SIGUSR2 - 1);
	CHECK(syscall(SYS_sigprocmask, SIG_BLOCK, &mask, &before) == 0);
	int so_far = handled;
	CHECK(raise(SIGUSR2) == 0 && handled == so_far);
	CHECK(syscall(SYS_sigpending, &mask) == 0 && mask & (1u << (SIGUSR2 - 1)));
	CHECK(syscall(SYS_sigsuspend, 0, 0, before) == -1 && errno == EINTR);
	CHECK(handled == so_far + 1); /* its handler had no restorer */
	CHECK(syscall(SYS_sigprocmask, SIG_SETMASK, &before, NULL) == 0);

	unsigned int selector;
	__asm__("mov %%gs, %0" : "=r"(selector));
	area.entry = selector >> 3;
	CHECK(syscall(SYS_get_thread_area, &area) == 0);
	unsigned int base;
	__asm__("mov %%gs:0, %0" : "=r"(base));
	CHECK(area.base == base);
	close(pair[0]);
	close(pair[1]);
	close(fd);
}
#else
static void of_i386_alone(void)
{
}
#endif

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void *body(void *index)
{
	(void)index;
	pthread_mutex_lock(&one_at_a_time); /* descriptor 40, signals to be waited for */
	files();
	waiting();
	sockets();
	system_v();
	accounts();
	children();
	of_i386_alone();
	pthread_mutex_unlock(&one_at_a_time);
	return NULL;
}

int main(int argc, char **argv)
{
	body(NULL);
	run_threads_at_once(argument(argc, argv, 1, 3), body);
	printf("layouts: the same\n");
	return 0;
}
