// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * floors WHAT COUNT BYTES BATCHES: what the mechanisms under dsmsup cost in bare C, in
 * nanoseconds (a stream: for each 4 KiB): median, least and greatest of batches.
 *
 *   trap          a ptrace stop at `8e c8`: registers read, written, tracee continued
 *   fault         a ptrace stop at a SIGSEGV, mprotect injected on the thread itself
 *   round-trip    64 bytes one way, BYTES back, over a loopback TCP connection
 *   stream        BYTES one way, in pieces of 64 KiB
 *
 * Tracer and tracee share a processor (that of their own guest); the two ends
 * of a connection are on the first and the last processor allowed. With
 * -busy the far end's processor computes meanwhile, in another process.
 */
#include "bench.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

enum { BATCHES_MAX = 31, PIECE = 1 << 16 };

static int count, batches;
static double batch_ns[BATCHES_MAX];

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(void)
{
	qsort(batch_ns, batches, sizeof *batch_ns, by_value);
	printf("%.1f %.1f %.1f\n", batch_ns[batches / 2], batch_ns[0], batch_ns[batches - 1]);
}

static void pin(int last)
{
	cpu_set_t allowed, one;
	int chosen = -1;

	CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE && (last || chosen < 0); cpu++)
		if (CPU_ISSET(cpu, &allowed))
			chosen = cpu;
	CPU_ZERO(&one);
	CPU_SET(chosen, &one);
	CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
}

/* The tracee traps (or faults) forever; the tracer handles COUNT of them a batch. */
static void stops(int faults)
{
	struct user_regs_struct regs;
	int status;
	pid_t child;
	char *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	pin(1);
	child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (;;) {
			if (faults) {
				*(volatile char *)page = 1;
				mprotect(page, PAGE_BYTES, PROT_READ);
			} else {
				__asm__ volatile(".byte 0x8e, 0xc8");
			}
		}
	}
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	for (int batch = 0; batch < batches; batch++) {
		double began = now_s();

		for (int i = 0; i < count; i++) {
			ptrace(PTRACE_CONT, child, 0, 0);
			CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
			CHECK(ptrace(PTRACE_GETREGS, child, 0, &regs) == 0);
			if (!faults) {
				regs.rip += 2;
				CHECK(ptrace(PTRACE_SETREGS, child, 0, &regs) == 0);
				continue;
			}
			/* Borrow the mprotect call that the tracee is about to make. */
			struct user_regs_struct call = regs;
			long text = ptrace(PTRACE_PEEKTEXT, child, regs.rip, 0);
			CHECK(ptrace(PTRACE_POKETEXT, child, regs.rip, 0xcc050fL) == 0);
			call.rax = SYS_mprotect;
			call.rdi = (unsigned long)page;
			call.rsi = PAGE_BYTES;
			call.rdx = PROT_READ | PROT_WRITE;
			CHECK(ptrace(PTRACE_SETREGS, child, 0, &call) == 0);
			ptrace(PTRACE_CONT, child, 0, 0);
			CHECK(waitpid(child, &status, 0) == child && WSTOPSIG(status) == SIGTRAP);
			CHECK(ptrace(PTRACE_POKETEXT, child, regs.rip, text) == 0);
			CHECK(ptrace(PTRACE_SETREGS, child, 0, &regs) == 0);
		}
		batch_ns[batch] = (now_s() - began) / count * 1e9;
	}
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

static void send_all(int socket, const char *data, long length)
{
	while (length > 0) {
		long sent = send(socket, data, length < PIECE ? length : PIECE, MSG_NOSIGNAL);

		CHECK(sent > 0);
		length -= sent;
	}
}

static void receive_all(int socket, char *data, long length)
{
	while (length > 0) {
		long got = recv(socket, data, length < PIECE ? length : PIECE, 0);

		CHECK(got > 0);
		length -= got;
	}
}

static void connection(long answer, int streams, int busy)
{
	static char data[PIECE];
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	int listener = socket(AF_INET, SOCK_STREAM, 0), near, one = 1, status;
	pid_t far, load = 0;

	CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&at, size) == 0);
	CHECK(listen(listener, 1) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&at, &size) == 0);
	far = fork();
	if (far == 0) {
		int end = socket(AF_INET, SOCK_STREAM, 0);

		alarm(120);
		pin(0);
		CHECK(connect(end, (struct sockaddr *)&at, sizeof at) == 0);
		CHECK(setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
		for (;;) {
			if (recv(end, data, 64, MSG_WAITALL) != 64)
				_exit(0);
			send_all(end, data, answer);
		}
	}
	if (busy && (load = fork()) == 0) {
		alarm(120);
		pin(0);
		for (;;)
			;
	}
	pin(1);
	CHECK((near = accept(listener, NULL, NULL)) >= 0);
	CHECK(setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
	for (int batch = 0; batch < batches; batch++) {
		double began = now_s();

		for (int i = 0; i < count; i++) {
			send_all(near, data, 64);
			receive_all(near, data, answer);
		}
		batch_ns[batch] = (now_s() - began) / count * 1e9;
		if (streams)
			batch_ns[batch] /= (double)answer / PAGE_BYTES;
	}
	close(near);
	waitpid(far, &status, 0);
	if (load > 0) {
		kill(load, SIGKILL);
		waitpid(load, &status, 0);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	long bytes = argument(argc, argv, 3, 4096);
	int busy = strstr(what, "-busy") != NULL;

	count = argument(argc, argv, 2, 1000);
	batches = argument(argc, argv, 4, 11);
	CHECK(count > 0 && batches > 0 && batches <= BATCHES_MAX);
	if (strcmp(what, "trap") == 0)
		stops(0);
	else if (strcmp(what, "fault") == 0)
		stops(1);
	else if (strncmp(what, "round-trip", 10) == 0)
		connection(bytes, 0, busy);
	else if (strncmp(what, "stream", 6) == 0)
		connection(bytes, 1, busy);
	else
		CHECK(!"unknown mechanism");
	report();
	return 0;
}
