// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs a rewritten program on this machine alone, for tests of the rewriter.
 *
 *     launcher ARMED MAP COUNTS PROGRAM ARGS...
 *
 * ARMED   0: the armed byte stays clear; 1: it is set, every site traps.
 * MAP     a text file: "armed ADDRESS", and for each rewritten file
 *         "file PATH", "load VADDR OFFSET FILESZ", "trap AT NATIVE",
 *         "redirect AT TO", "moved AT ORIGINAL"; numbers hexadecimal,
 *         link-time addresses.
 * COUNTS  is written at the end: "traps N redirects N", or "-".
 *
 * At each exec stop (a program may execute itself) it maps the page of the armed
 * byte; then it follows all threads and children, which may stand still as natively,
 * and moves the instruction pointer on SIGILL (and on SIGSEGV, which i386 redirects
 * raise). Everything else goes to the program; a fault of an instruction that was
 * moved, as if it had not been. Exit status: the program's, or 128 + signal.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct pair { unsigned long from, to; int file; };
struct load { unsigned long vaddr, offset, filesz; int file; };

static struct pair *traps, *redirects, *moved;
static size_t n_traps, n_redirects, n_moved;
static struct load *loads;
static size_t n_loads;
static char **files;
static int n_files;
static unsigned long armed_address;
static unsigned long long trapped, redirected;

static void die(const char *what)
{
	fprintf(stderr, "launcher: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void *grow(void *old, size_t n, size_t size)
{
	if (n & (n - 1))
		return old;
	void *p = realloc(old, (n ? 2 * n : 1) * size);
	if (!p)
		die("memory");
	return p;
}

static int by_from(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return x->from < y->from ? -1 : x->from > y->from;
}

static void read_map(const char *path)
{
	FILE *f = fopen(path, "r");
	char line[8192], name[8000];
	unsigned long a, b, c;
	if (!f)
		die(path);
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "armed %lx", &a) == 1) {
			armed_address = a;
		} else if (sscanf(line, "file %7999[^\n]", name) == 1) {
			files = grow(files, n_files, sizeof *files);
			files[n_files++] = strdup(name);
		} else if (sscanf(line, "load %lx %lx %lx", &a, &b, &c) == 3) {
			loads = grow(loads, n_loads, sizeof *loads);
			loads[n_loads++] = (struct load){a, b, c, n_files - 1};
		} else if (sscanf(line, "trap %lx %lx", &a, &b) == 2) {
			traps = grow(traps, n_traps, sizeof *traps);
			traps[n_traps++] = (struct pair){a, b, n_files - 1};
		} else if (sscanf(line, "redirect %lx %lx", &a, &b) == 2) {
			redirects = grow(redirects, n_redirects, sizeof *redirects);
			redirects[n_redirects++] = (struct pair){a, b, n_files - 1};
		} else if (sscanf(line, "moved %lx %lx", &a, &b) == 2) {
			moved = grow(moved, n_moved, sizeof *moved);
			moved[n_moved++] = (struct pair){a, b, n_files - 1};
		}
	}
	fclose(f);
	qsort(traps, n_traps, sizeof *traps, by_from);
	qsort(moved, n_moved, sizeof *moved, by_from);
	qsort(redirects, n_redirects, sizeof *redirects, by_from);
}

/* Where an address of a process lies: file and load bias. The last answers are kept. */
struct where { pid_t pid; unsigned long lo, hi, bias; int file; };
static struct where known[64];
static unsigned next_known;

static int locate(pid_t pid, unsigned long address, unsigned long *bias)
{
	for (unsigned i = 0; i < 64; i++)
		if (known[i].pid == pid && known[i].lo <= address && address < known[i].hi) {
			*bias = known[i].bias;
			return known[i].file;
		}
	char path[64], line[8192], name[8000];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "r");
	int found = -1;
	while (f && fgets(line, sizeof line, f)) {
		unsigned long lo, hi, offset;
		name[0] = 0;
		if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %7999[^\n]", &lo, &hi, &offset, name) < 3)
			continue;
		if (address < lo || address >= hi)
			continue;
		for (size_t i = 0; i < n_loads; i++) {
			const struct load *l = &loads[i];
			unsigned long start = l->offset & ~4095UL;
			if (strcmp(files[l->file], name) || offset < start ||
			    offset >= l->offset + l->filesz)
				continue;
			*bias = lo - (offset - start) - (l->vaddr & ~4095UL);
			found = l->file;
			known[next_known++ % 64] = (struct where){pid, lo, hi, *bias, found};
			break;
		}
		break;
	}
	if (f)
		fclose(f);
	return found;
}

static const struct pair *find(const struct pair *table, size_t n, int file, unsigned long at)
{
	struct pair key = {at, 0, file};
	return bsearch(&key, table, n, sizeof *table, by_from);
}

/*
 * Whether the stop was one of ours; then the instruction pointer has been moved on. For
 * a fault of the program's own it is moved back to where the instruction stood.
 */
static int handle(pid_t tid, int signal)
{
	struct user_regs_struct regs;
	struct iovec io = {&regs, sizeof regs};
	unsigned long bias = 0;
	siginfo_t info;
	if (ptrace(PTRACE_GETSIGINFO, tid, 0, &info) || info.si_code <= 0)
		return 0;
	if (ptrace(PTRACE_GETREGS, tid, 0, io.iov_base))
		return 0;
	unsigned long at = regs.rip;
	int file = locate(tid, at, &bias);
	if (file < 0)
		return 0;
	const struct pair *p = signal == SIGILL ? find(traps, n_traps, file, at - bias) : NULL;
	int ours = 1;
	if (p) {
		trapped++;
	} else if ((p = find(redirects, n_redirects, file, at - bias))) {
		redirected++;
	} else if ((p = find(moved, n_moved, file, at - bias))) {
		ours = 0;
	} else {
		return 0;
	}
	if (!ours && (signal == SIGFPE || signal == SIGILL) && (unsigned long)info.si_addr == at) {
		/* Of these the kernel tells the instruction's address. */
		info.si_addr = (void *)(p->to + bias);
		if (ptrace(PTRACE_SETSIGINFO, tid, 0, &info))
			die("PTRACE_SETSIGINFO");
	}
	regs.rip = p->to + bias;
	if (ptrace(PTRACE_SETREGS, tid, 0, &regs))
		die("PTRACE_SETREGS");
	return ours;
}

/*
 * Map the page of the armed byte by a system call run in the program. Its wait status
 * where it was killed meanwhile, else 0.
 */
static int prepare(pid_t pid, int armed)
{
	struct user_regs_struct saved, regs;
	int status;
	/* On to the exit of execve, which would otherwise still write its result to rax. */
	if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &status, 0) < 0)
		die("exec");
	if (ptrace(PTRACE_GETREGS, pid, 0, &saved))
		die("PTRACE_GETREGS");
	int is32 = saved.cs == 0x23;
	errno = 0;
	long text = ptrace(PTRACE_PEEKTEXT, pid, saved.rip, 0);
	if (errno)
		die("PTRACE_PEEKTEXT");
	long code = (text & ~0xffffL) | (is32 ? 0x80cd : 0x050f);
	ptrace(PTRACE_POKETEXT, pid, saved.rip, code);
	regs = saved;
	unsigned long page = armed_address & ~4095UL;
	if (is32) {
		regs.rax = 192, regs.rbx = page, regs.rcx = 4096, regs.rdx = 3;
		regs.rsi = 0x32, regs.rdi = -1, regs.rbp = 0;
	} else {
		regs.rax = 9, regs.rdi = page, regs.rsi = 4096, regs.rdx = 3;
		regs.r10 = 0x32, regs.r8 = -1, regs.r9 = 0;
	}
	regs.orig_rax = -1;
	ptrace(PTRACE_SETREGS, pid, 0, &regs);
	int kept[32], n_kept = 0;
	for (;;) {
		if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) || waitpid(pid, &status, 0) < 0)
			die("single step");
		if (!WIFSTOPPED(status))
			return status;
		if (WSTOPSIG(status) == SIGTRAP)
			break;
		/* A signal came first: it comes again afterwards. */
		if (status >> 16 == 0 && n_kept < 32)
			kept[n_kept++] = WSTOPSIG(status);
	}
	ptrace(PTRACE_GETREGS, pid, 0, &regs);
	if ((is32 ? (unsigned int)regs.rax : regs.rax) != page) {
		errno = -(long)regs.rax;
		die("mapping the armed byte");
	}
	ptrace(PTRACE_POKETEXT, pid, saved.rip, text);
	ptrace(PTRACE_SETREGS, pid, 0, &saved);
	if (armed && ptrace(PTRACE_POKEDATA, pid, armed_address, 1L))
		die("setting the armed byte");
	while (n_kept)
		syscall(SYS_tgkill, pid, pid, kept[--n_kept]);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: launcher ARMED MAP COUNTS PROGRAM ARGS...\n");
		return 125;
	}
	int armed = atoi(argv[1]), status, result = 125;
	read_map(argv[2]);
	int seized[2];
	if (pipe(seized))
		die("pipe");
	pid_t child = fork();
	if (child == 0) {
		char go;
		close(seized[1]);
		if (read(seized[0], &go, 1) != 1)
			_exit(125);
		close(seized[0]);
		execv(argv[4], argv + 4);
		_exit(127);
	}
	if (child < 0)
		die("fork");
	/* Not PTRACE_TRACEME: only of seized tasks can the parent see that they stand still. */
	if (ptrace(PTRACE_SEIZE, child, 0,
		   PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
			   PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL))
		die("PTRACE_SEIZE");
	close(seized[0]);
	if (write(seized[1], "", 1) != 1)
		die("pipe");
	close(seized[1]);
	for (;;) {
		pid_t tid = waitpid(-1, &status, __WALL);
		if (tid < 0)
			break;
		if (WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_EXEC) {
			memset(known, 0, sizeof known);
			int ended = prepare(tid, armed);
			if (ended)
				status = ended;
		}
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (tid == child)
				result = WIFEXITED(status) ? WEXITSTATUS(status)
							   : 128 + WTERMSIG(status);
			continue;
		}
		int signal = WSTOPSIG(status), event = status >> 16;
		if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
			/* A stop of the whole process: it lasts until SIGCONT. */
			ptrace(PTRACE_LISTEN, tid, 0, 0);
			continue;
		}
		int fault = signal == SIGILL || signal == SIGSEGV || signal == SIGBUS ||
			    signal == SIGFPE;
		if (event || (fault && handle(tid, signal)))
			signal = 0;
		ptrace(PTRACE_CONT, tid, 0, signal);
	}
	if (strcmp(argv[3], "-")) {
		FILE *f = fopen(argv[3], "w");
		if (!f)
			die(argv[3]);
		fprintf(f, "traps %llu redirects %llu\n", trapped, redirected);
		fclose(f);
	}
	return result;
}
