// SPDX-License-Identifier: GPL-2.0-or-later
/* Signals: handlers, masks, queues, waits, and those that the program raises itself. */
#include "posix.h"
#include <sys/signalfd.h>
#include <ucontext.h>

static volatile sig_atomic_t caught, caught_number, caught_code, depth, most_depth;
static volatile sig_atomic_t order[64];
static union sigval caught_value;
static void *volatile caught_address;
static volatile pid_t caught_pid, caught_thread;
static sigset_t caught_mask;
static char *volatile caught_stack;
static atomic_int flag;

static void notes(int number, siginfo_t *info, void *context)
{
	char local;

	(void)context;
	if (caught < 64)
		order[caught] = number * 1000 + info->si_value.sival_int;
	caught_number = number;
	caught_code = info->si_code;
	caught_value = info->si_value;
	caught_address = info->si_addr;
	caught_pid = info->si_pid;
	caught_thread = gettid();
	caught_stack = &local;
	pthread_sigmask(SIG_BLOCK, NULL, &caught_mask);
	caught++;
}

static int is_pending(int number)
{
	sigset_t set;

	NEED(sigpending(&set) == 0);
	return sigismember(&set, number);
}

static int is_blocked(int number)
{
	sigset_t set;

	pthread_sigmask(SIG_BLOCK, NULL, &set);
	return sigismember(&set, number);
}

static void actions(void)
{
	struct sigaction action = {.sa_sigaction = notes, .sa_flags = SA_SIGINFO}, old;

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGUSR2);
	PROMISE("set", sigaction(SIGUSR1, &action, NULL) == 0);
	PROMISE("get what was set", sigaction(SIGUSR1, NULL, &old) == 0 &&
		old.sa_sigaction == notes && old.sa_flags & SA_SIGINFO &&
		sigismember(&old.sa_mask, SIGUSR2));
	action.sa_flags |= 0x400; /* SA_UNSUPPORTED */
	sigfillset(&action.sa_mask);
	PROMISE("flags that the kernel does not know are forgotten",
		sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR1, NULL, &old) == 0 &&
		!(old.sa_flags & 0x400) && old.sa_flags & SA_SIGINFO);
	PROMISE("so are SIGKILL and SIGSTOP in the mask", sigismember(&old.sa_mask, SIGUSR2) &&
		!sigismember(&old.sa_mask, SIGKILL) && !sigismember(&old.sa_mask, SIGSTOP));
	action.sa_flags = SA_SIGINFO;
	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGUSR2);
	sigaction(SIGUSR1, &action, NULL);
	PROMISE("SIGKILL is EINVAL", sigaction(SIGKILL, &action, NULL) == -1 && errno == EINVAL);
	PROMISE("a bad number is EINVAL", sigaction(99, &action, NULL) == -1 && errno == EINVAL);
	caught = 0;
	PROMISE("raise runs the handler before it returns", raise(SIGUSR1) == 0 && caught == 1);
	PROMISE("in this thread", caught_thread == gettid());
	PROMISE("itself blocked in it", sigismember(&caught_mask, SIGUSR1));
	PROMISE("sa_mask blocked in it", sigismember(&caught_mask, SIGUSR2));
	PROMISE("others not", !sigismember(&caught_mask, SIGALRM));
	PROMISE("the mask is back after it", !is_blocked(SIGUSR1) && !is_blocked(SIGUSR2));
	handle(SIGUSR1, notes, SA_NODEFER);
	raise(SIGUSR1);
	PROMISE("SA_NODEFER: not blocked", !sigismember(&caught_mask, SIGUSR1));
	handle(SIGUSR1, notes, SA_RESETHAND);
	raise(SIGUSR1);
	PROMISE("SA_RESETHAND: default after", sigaction(SIGUSR1, NULL, &old) == 0 &&
		old.sa_handler == SIG_DFL);
	PROMISE("signal returns the old one", signal(SIGUSR1, SIG_IGN) == SIG_DFL &&
		signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	signal(SIGUSR1, SIG_IGN);
	PROMISE("an ignored one does nothing", raise(SIGUSR1) == 0);
	signal(SIGUSR1, SIG_DFL);
}

static void information(void)
{
	union sigval value = {.sival_int = 77};

	handle(SIGUSR1, notes, 0);
	caught = 0;
	kill(getpid(), SIGUSR1);
	PROMISE("of kill", caught == 1 && caught_code == SI_USER && caught_pid == getpid());
	raise(SIGUSR1);
	PROMISE("of raise", caught_code == SI_TKILL && caught_pid == getpid());
	sigqueue(getpid(), SIGUSR1, value);
	PROMISE("of sigqueue", caught == 3 && caught_code == SI_QUEUE &&
		caught_value.sival_int == 77 && caught_pid == getpid());
	value.sival_int = 78;
	pthread_sigqueue(pthread_self(), SIGUSR1, value);
	PROMISE("of pthread_sigqueue", caught == 4 && caught_code == SI_QUEUE &&
		caught_value.sival_int == 78);
	PROMISE("kill with 0", kill(getpid(), 0) == 0);
	PROMISE("kill of none is ESRCH", kill(0x3fffffff, 0) == -1 && errno == ESRCH);
	PROMISE("kill with a bad number is EINVAL", kill(getpid(), 99) == -1 && errno == EINVAL);
	signal(SIGUSR1, SIG_DFL);
}

static void masks(void)
{
	sigset_t set = set_of(SIGUSR1), old;

	handle(SIGUSR1, notes, 0);
	caught = 0;
	PROMISE("a bad way is EINVAL", pthread_sigmask(77, &set, NULL) == EINVAL);
	PROMISE("block", pthread_sigmask(SIG_BLOCK, &set, &old) == 0 && !sigismember(&old, SIGUSR1));
	raise(SIGUSR1);
	PROMISE("a blocked one waits", caught == 0 && is_pending(SIGUSR1));
	raise(SIGUSR1);
	PROMISE("unblock delivers before it returns",
		pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0 && caught > 0);
	PROMISE("once however often sent", caught == 1 && !is_pending(SIGUSR1));
	sigfillset(&set);
	pthread_sigmask(SIG_SETMASK, &set, &old);
	PROMISE("all but SIGKILL and SIGSTOP can be blocked", is_blocked(SIGSEGV) &&
		is_blocked(SIGTERM) && !is_blocked(SIGKILL) && !is_blocked(SIGSTOP));
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	PROMISE("setmask brings it back", !is_blocked(SIGSEGV) && !is_blocked(SIGTERM));
	mask(SIG_BLOCK, SIGUSR1);
	raise(SIGUSR1);
	signal(SIGUSR1, SIG_IGN);
	PROMISE("to ignore drops what waits", !is_pending(SIGUSR1));
	mask(SIG_UNBLOCK, SIGUSR1);
	signal(SIGUSR1, SIG_DFL);
}

static void *inherits(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)(is_blocked(SIGUSR1) + 2 * is_pending(SIGUSR1));
}

static void inheritance(void)
{
	mask(SIG_BLOCK, SIGUSR1);
	raise(SIGUSR1);
	PROMISE("a thread inherits the mask, not what waits",
		(intptr_t)join(start(inherits, NULL)) == 1);
	handle(SIGUSR1, notes, 0);
	mask(SIG_UNBLOCK, SIGUSR1);
	signal(SIGUSR1, SIG_DFL);
}

static void queues(void)
{
	union sigval value;
	int low = SIGRTMIN + 1, high = SIGRTMIN + 3;

	handle(low, notes, 0);
	handle(high, notes, 0);
	mask(SIG_BLOCK, low);
	mask(SIG_BLOCK, high);
	caught = 0;
	for (int i = 0; i < 3; i++) {
		value.sival_int = i;
		sigqueue(getpid(), high, value);
		value.sival_int = i + 10;
		sigqueue(getpid(), low, value);
	}
	mask(SIG_UNBLOCK, high);
	PROMISE("as many as sent, in their order", caught == 3 &&
		order[0] == high * 1000 && order[1] == high * 1000 + 1 &&
		order[2] == high * 1000 + 2);
	caught = 0;
	value.sival_int = 5;
	mask(SIG_BLOCK, high);
	sigqueue(getpid(), high, value);
	{
		sigset_t none;

		sigemptyset(&none);
		pthread_sigmask(SIG_SETMASK, &none, NULL);
	}
	PROMISE("all when all are unblocked", caught == 4);
	signal(low, SIG_DFL);
	signal(high, SIG_DFL);
}

static void *sends(void *arg)
{
	union sigval value = {.sival_int = 9};

	reached(&flag, 1);
	pause_ms(10);
	pthread_sigqueue(*(pthread_t *)arg, SIGUSR1, value);
	return NULL;
}

static void waits(void)
{
	sigset_t set = set_of(SIGUSR1), empty;
	siginfo_t info;
	struct timespec short_time = {0, 20000000}, bad = {0, -1}, none = {0, 0};
	pthread_t self = pthread_self(), thread;
	union sigval value = {.sival_int = 3};
	int number = 0;

	mask(SIG_BLOCK, SIGUSR1);
	raise(SIGUSR1);
	PROMISE("sigwait of one that waits", sigwait(&set, &number) == 0 && number == SIGUSR1);
	PROMISE("takes it", !is_pending(SIGUSR1));
	PROMISE("sigtimedwait is EAGAIN",
		sigtimedwait(&set, &info, &short_time) == -1 && errno == EAGAIN);
	PROMISE("with no time too", sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
	PROMISE("a bad time is EINVAL", sigtimedwait(&set, &info, &bad) == -1 && errno == EINVAL);
	atomic_store(&flag, 1);
	thread = start(sends, &self);
	PROMISE("sigwaitinfo waits", sigwaitinfo(&set, &info) == SIGUSR1 &&
		info.si_code == SI_QUEUE && info.si_value.sival_int == 9);
	join(thread);
	sigqueue(getpid(), SIGUSR1, value);
	PROMISE("sigwaitinfo of the process's", sigwaitinfo(&set, &info) == SIGUSR1 &&
		info.si_value.sival_int == 3 && info.si_pid == getpid());
	handle(SIGUSR1, notes, 0);
	sigemptyset(&empty);
	caught = 0;
	thread = start(sends, &self);
	PROMISE("sigsuspend is EINTR after the handler",
		sigsuspend(&empty) == -1 && errno == EINTR && caught == 1);
	PROMISE("the mask is back", is_blocked(SIGUSR1));
	join(thread);
	mask(SIG_UNBLOCK, SIGUSR1);
	thread = start(sends, &self);
	PROMISE("pause is EINTR", pause() == -1 && errno == EINTR && caught == 2);
	join(thread);
	signal(SIGUSR1, SIG_DFL);
}

static int pipe_ends[2];

static void *sends_then_writes(void *arg)
{
	pthread_t *target = arg;

	pause_ms(10);
	pthread_kill(*target, SIGUSR1);
	while (!caught)
		pause_ms(1);
	pause_ms(5);
	NEED(write(pipe_ends[1], "x", 1) == 1);
	return NULL;
}

static void restarts(void)
{
	pthread_t self = pthread_self(), thread;
	struct timespec time = {5, 0}, left = {0, 0};
	char byte = 0;

	NEED(pipe(pipe_ends) == 0);
	handle(SIGUSR1, notes, SA_RESTART);
	caught = 0;
	thread = start(sends_then_writes, &self);
	PROMISE("SA_RESTART: read goes on", read(pipe_ends[0], &byte, 1) == 1 && byte == 'x' &&
		caught == 1);
	join(thread);
	handle(SIGUSR1, notes, 0);
	caught = 0;
	thread = start(sends_then_writes, &self);
	PROMISE("without: read is EINTR", read(pipe_ends[0], &byte, 1) == -1 && errno == EINTR);
	join(thread);
	NEED(read(pipe_ends[0], &byte, 1) == 1);
	handle(SIGUSR1, notes, SA_RESTART);
	caught = 0;
	thread = start(sends_then_writes, &self);
	PROMISE("nanosleep is EINTR in any case",
		nanosleep(&time, &left) == -1 && errno == EINTR && caught == 1);
	PROMISE("and tells what is left", left.tv_sec >= 3 && left.tv_sec < 5);
	join(thread);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	signal(SIGUSR1, SIG_DFL);
}

static void nests(int number, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	depth++;
	if (depth > most_depth)
		most_depth = depth;
	if (number == SIGUSR1)
		raise(SIGUSR2);
	else if (number == SIGUSR2)
		raise(SIGALRM);
	depth--;
	caught++;
}

static void nesting(void)
{
	double value = 1.5;

	handle(SIGUSR1, nests, 0);
	handle(SIGUSR2, nests, 0);
	handle(SIGALRM, nests, 0);
	caught = depth = most_depth = 0;
	raise(SIGUSR1);
	PROMISE("three handlers inside each other", most_depth == 3 && caught == 3 && depth == 0);
	PROMISE("arithmetic goes on", value * 2 == 3.0);
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
	signal(SIGALRM, SIG_DFL);
}

static char alternate[65536];
static stack_t in_handler;
static volatile sig_atomic_t set_there;

static void on_alternate(int number, siginfo_t *info, void *context)
{
	stack_t other = {.ss_sp = alternate, .ss_size = sizeof alternate};

	notes(number, info, context);
	sigaltstack(NULL, &in_handler);
	set_there = sigaltstack(&other, NULL) == -1 ? errno : 0;
}

static int inside(char *address)
{
	return address >= alternate && address < alternate + sizeof alternate;
}

static void overflow_once(int count)
{
	volatile char room[4096];

	room[0] = (char)count;
	if (count)
		overflow_once(count - 1);
	room[1] = room[0];
}

static void *overflows(void *arg)
{
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};

	(void)arg;
	sigaltstack(&stack, NULL);
	overflow_once(100000);
	return NULL;
}

static void overflow_ended(int number, siginfo_t *info, void *context)
{
	char local;

	(void)number;
	(void)info;
	(void)context;
	_exit(inside(&local) ? 42 : 43);
}

static void overflow_in_child(void)
{
	handle(SIGSEGV, overflow_ended, SA_ONSTACK);
	overflows(NULL);
}

static void alternate_stacks(void)
{
	stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
	stack_t small = {.ss_sp = alternate, .ss_size = 100};
	int status;

	PROMISE("too small is ENOMEM", sigaltstack(&small, NULL) == -1 && errno == ENOMEM);
	PROMISE("none at first", sigaltstack(NULL, &old) == 0 && old.ss_flags & SS_DISABLE);
	PROMISE("set", sigaltstack(&stack, NULL) == 0);
	PROMISE("get", sigaltstack(NULL, &old) == 0 && old.ss_sp == alternate && !old.ss_flags);
	handle(SIGUSR1, on_alternate, SA_ONSTACK);
	raise(SIGUSR1);
	PROMISE("the handler runs on it", inside(caught_stack));
	PROMISE("and is told so", in_handler.ss_flags & SS_ONSTACK);
	PROMISE("it cannot change it: EPERM", set_there == EPERM);
	handle(SIGUSR1, notes, 0);
	raise(SIGUSR1);
	PROMISE("without SA_ONSTACK it does not", !inside(caught_stack));
	stack.ss_flags = SS_DISABLE;
	PROMISE("disable", sigaltstack(&stack, NULL) == 0);
	status = status_of(overflow_in_child);
	PROMISE("an overflow is handled on it", WIFEXITED(status) && WEXITSTATUS(status) == 42);
	signal(SIGUSR1, SIG_DFL);
}

static sigjmp_buf back;

static void jumps(int number, siginfo_t *info, void *context)
{
	notes(number, info, context);
	siglongjmp(back, 1);
}

static volatile int zero;

static void divide(void)
{
	volatile int one = 1;

	one = one / zero;
}

static char *volatile wild = (char *)0x123450;

static void faults(void)
{
	char *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char name[] = "/tmp/posix-signals-XXXXXX";
	int file = mkstemp(name), jumped;
	char *mapped;

	NEED(page != MAP_FAILED && file >= 0);
	unlink(name);
	NEED(ftruncate(file, 100) == 0);
	mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED(mapped != MAP_FAILED);
	handle(SIGSEGV, jumps, 0);
	handle(SIGFPE, jumps, 0);
	handle(SIGILL, jumps, 0);
	handle(SIGBUS, jumps, 0);
	handle(SIGTRAP, notes, 0);
	for (int round = 0; round < 2; round++) {
		if (!(jumped = sigsetjmp(back, 1)))
			page[4097] = 1;
		PROMISE("a write to a read-only page is SEGV_ACCERR at its address",
			jumped && caught_number == SIGSEGV && caught_code == SEGV_ACCERR &&
			caught_address == page + 4097);
		PROMISE("the mask is back after siglongjmp", !is_blocked(SIGSEGV));
		if (!(jumped = sigsetjmp(back, 1)))
			*wild = 1;
		PROMISE("an access to nothing is SEGV_MAPERR at its address",
			jumped && caught_code == SEGV_MAPERR && caught_address == wild);
		if (!(jumped = sigsetjmp(back, 1)))
			divide();
		PROMISE("a division by zero is FPE_INTDIV", jumped && caught_number == SIGFPE &&
			caught_code == FPE_INTDIV && caught_address);
		if (!(jumped = sigsetjmp(back, 1)))
			__asm__ volatile("ud2");
		PROMISE("an undefined instruction is ILL_ILLOPN", jumped &&
			caught_number == SIGILL && caught_code == ILL_ILLOPN && caught_address);
		if (!(jumped = sigsetjmp(back, 1)))
			mapped[5000] = 1;
		PROMISE("beyond a mapped file's end is BUS_ADRERR", jumped &&
			caught_number == SIGBUS && caught_code == BUS_ADRERR &&
			caught_address == mapped + 5000);
	}
	caught = 0;
	__asm__ volatile("int3");
	PROMISE("a breakpoint is SIGTRAP, and goes on", caught == 1 && caught_number == SIGTRAP &&
		caught_code == SI_KERNEL);
	if (!(jumped = sigsetjmp(back, 1)))
		((void (*)(void))(uintptr_t)page)();
	PROMISE("a jump to what is no code is SIGSEGV there",
		jumped && caught_number == SIGSEGV && caught_address == page);
	if (!(jumped = sigsetjmp(back, 1)))
		*(volatile char *)0x8000000000000000 = 1;
	PROMISE("a non-canonical address is SIGSEGV from the kernel",
		jumped && caught_number == SIGSEGV && caught_code == SI_KERNEL);
	caught = 0;
	handle(SIGSEGV, notes, 0);
	raise(SIGSEGV);
	PROMISE("a SIGSEGV that is sent is handled too", caught == 1 && caught_code == SI_TKILL);
	for (int number = SIGILL; number <= SIGSEGV; number++)
		if (number == SIGILL || number == SIGTRAP || number == SIGBUS || number == SIGFPE ||
		    number == SIGSEGV)
			signal(number, SIG_DFL);
	munmap(page, 8192);
	munmap(mapped, 8192);
	close(file);
}

static void again(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	(void)context;
	if (++depth < 3)
		*wild = 2;
	_exit(30 + depth);
}

static void nested_blocked(void)
{
	handle(SIGSEGV, again, 0);
	*wild = 1;
}

static void nested_allowed(void)
{
	handle(SIGSEGV, again, SA_NODEFER);
	*wild = 1;
}

static void blocked_fault(void)
{
	handle(SIGSEGV, again, 0);
	mask(SIG_BLOCK, SIGSEGV);
	*wild = 1;
}

static void ignored_fault(void)
{
	signal(SIGSEGV, SIG_IGN);
	*wild = 1;
}

static void ignored_sent(void)
{
	signal(SIGSEGV, SIG_IGN);
	raise(SIGSEGV);
	_exit(7);
}

static void blocked_sent(void)
{
	handle(SIGSEGV, again, 0);
	mask(SIG_BLOCK, SIGSEGV);
	raise(SIGSEGV);
	_exit(is_pending(SIGSEGV) ? 8 : 9);
}

static void aborts(void)
{
	abort();
}

static void dumps(void)
{
	struct rlimit limit;

	NEED(chdir("/") == 0);
	getrlimit(RLIMIT_CORE, &limit);
	abort();
}

static void ends(void)
{
	int status;

	PROMISE("a fault in its own handler ends the process",
		killed_by(status_of(nested_blocked), SIGSEGV));
	status = status_of(nested_allowed);
	PROMISE("with SA_NODEFER it is handled", WIFEXITED(status) && WEXITSTATUS(status) == 33);
	PROMISE("a blocked fault ends it", killed_by(status_of(blocked_fault), SIGSEGV));
	PROMISE("an ignored fault ends it", killed_by(status_of(ignored_fault), SIGSEGV));
	status = status_of(ignored_sent);
	PROMISE("an ignored one that is sent does not",
		WIFEXITED(status) && WEXITSTATUS(status) == 7);
	status = status_of(blocked_sent);
	PROMISE("a blocked one that is sent waits", WIFEXITED(status) && WEXITSTATUS(status) == 8);
	PROMISE("abort", killed_by(status_of(aborts), SIGABRT));
	PROMISE("no core without room for it", !WCOREDUMP(status_of(dumps)));
}

/* The same without a fork: the thread's own handlers and masks. */
static void inner(int number, siginfo_t *info, void *context)
{
	(void)context;
	order[depth++] = number;
	caught_address = info->si_addr;
	if (number == SIGSEGV && depth == 1) {
		caught_code = is_blocked(SIGSEGV) + 2 * is_blocked(SIGBUS);
		raise(SIGBUS);
	}
	if (depth < 10)
		siglongjmp(back, depth);
}

static void own_faults(void)
{
	struct sigaction action = {.sa_sigaction = inner, .sa_flags = SA_SIGINFO};

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGBUS);
	NEED(sigaction(SIGSEGV, &action, NULL) == 0);
	sigemptyset(&action.sa_mask);
	NEED(sigaction(SIGBUS, &action, NULL) == 0);
	depth = 0;
	if (sigsetjmp(back, 1) == 0)
		*wild = 1;
	PROMISE("blocked in its handler, and what sa_mask says", caught_code == 3);
	PROMISE("what was blocked comes when the mask is back",
		depth == 2 && order[0] == SIGSEGV && order[1] == SIGBUS);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
}

static void steps_over(int number, siginfo_t *info, void *context)
{
	ucontext_t *user = context;

	notes(number, info, context);
	user->uc_mcontext.gregs[REG_RIP] += 2;
	user->uc_mcontext.gregs[REG_RAX] = 4321;
	sigaddset(&user->uc_sigmask, SIGUSR2);
}

static void contexts(void)
{
	long result = 1234;

	handle(SIGILL, steps_over, 0);
	caught = 0;
	__asm__ volatile("ud2" : "+a"(result) : : "memory");
	PROMISE("what a handler changes is in force after it", caught == 1 && result == 4321);
	PROMISE("the mask too", is_blocked(SIGUSR2));
	mask(SIG_UNBLOCK, SIGUSR2);
	signal(SIGILL, SIG_DFL);
}

static void descriptors(void)
{
	sigset_t set = set_of(SIGUSR1);
	struct signalfd_siginfo info;
	union sigval value = {.sival_int = 12};
	int fd;

	mask(SIG_BLOCK, SIGUSR1);
	fd = signalfd(-1, &set, SFD_NONBLOCK);
	PROMISE("made", fd >= 0);
	PROMISE("nothing is EAGAIN", read(fd, &info, sizeof info) == -1 && errno == EAGAIN);
	sigqueue(getpid(), SIGUSR1, value);
	PROMISE("one of the process's", read(fd, &info, sizeof info) == sizeof info &&
		info.ssi_signo == SIGUSR1 && info.ssi_int == 12 &&
		info.ssi_pid == (uint32_t)getpid());
	raise(SIGUSR1);
	PROMISE("one of this thread's", read(fd, &info, sizeof info) == sizeof info &&
		info.ssi_code == SI_TKILL);
	PROMISE("taken", !is_pending(SIGUSR1));
	close(fd);
	mask(SIG_UNBLOCK, SIGUSR1);
}

static volatile sig_atomic_t worker_ready;
static volatile pid_t worker_id;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void *computes(void *arg)
{
	(void)arg;
	worker_id = gettid();
	worker_ready = 1;
	while (!caught)
		;
	return (void *)(intptr_t)(caught_thread == gettid());
}

static void *locks(void *arg)
{
	(void)arg;
	worker_id = gettid();
	worker_ready = 1;
	pthread_mutex_lock(&mutex);
	pthread_mutex_unlock(&mutex);
	return (void *)(intptr_t)(caught_thread == gettid());
}

static void *waits_for_condition(void *arg)
{
	(void)arg;
	worker_id = gettid();
	pthread_mutex_lock(&mutex);
	worker_ready = 1;
	while (!atomic_load(&flag))
		pthread_cond_wait(&condition, &mutex);
	pthread_mutex_unlock(&mutex);
	return (void *)(intptr_t)(caught_thread == gettid());
}

static int to_thread(void *(*body)(void *))
{
	pthread_t thread;

	caught = worker_ready = 0;
	atomic_store(&flag, 0);
	if (body == locks)
		pthread_mutex_lock(&mutex);
	thread = start(body, NULL);
	while (!worker_ready)
		pause_ms(1);
	pause_ms(3);
	NEED(pthread_kill(thread, SIGUSR1) == 0);
	for (int i = 0; i < 5000 && !caught; i++)
		pause_ms(1);
	if (body == locks) {
		pthread_mutex_unlock(&mutex);
	} else {
		pthread_mutex_lock(&mutex);
		atomic_store(&flag, 1);
		pthread_cond_signal(&condition);
		pthread_mutex_unlock(&mutex);
	}
	return join(thread) != NULL && caught == 1;
}

static void *blocks_all(void *arg)
{
	sigset_t all;

	(void)arg;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	worker_ready = 1;
	reached(&flag, 1);
	return NULL;
}

static void threads(void)
{
	pthread_t thread;

	handle(SIGUSR1, notes, 0);
	PROMISE("one that computes handles what it is sent", to_thread(computes));
	PROMISE("one that waits for a mutex", to_thread(locks));
	PROMISE("one that waits for a condition", to_thread(waits_for_condition));
	worker_ready = 0;
	atomic_store(&flag, 0);
	thread = start(blocks_all, NULL);
	while (!worker_ready)
		pause_ms(1);
	caught = 0;
	kill(getpid(), SIGUSR1);
	PROMISE("one for the process goes to who has it not blocked",
		caught == 1 && caught_thread == gettid());
	atomic_store(&flag, 1);
	join(thread);
	signal(SIGUSR1, SIG_DFL);
}

static void *unblocked_waits(void *arg)
{
	(void)arg;
	mask(SIG_UNBLOCK, SIGUSR1);
	worker_id = gettid();
	worker_ready = 1;
	for (int i = 0; i < 5000 && !caught; i++)
		pause_ms(1);
	return (void *)(intptr_t)(caught_thread == gettid());
}

static void process_directed(void)
{
	pthread_t thread;

	handle(SIGUSR1, notes, 0);
	mask(SIG_BLOCK, SIGUSR1);
	caught = worker_ready = 0;
	thread = start(unblocked_waits, NULL);
	while (!worker_ready)
		pause_ms(1);
	kill(getpid(), SIGUSR1);
	PROMISE("handled by the one thread that takes it", join(thread) != NULL && caught == 1);
	caught = worker_ready = 0;
	if (fork() == 0) {
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	thread = start(unblocked_waits, NULL);
	PROMISE("so is one from another process", join(thread) != NULL && caught == 1);
	wait(NULL);
	mask(SIG_UNBLOCK, SIGUSR1);
	signal(SIGUSR1, SIG_DFL);
}

static void children(void)
{
	int status;
	pid_t child;

	handle(SIGCHLD, notes, SA_RESTART);
	caught = 0;
	child = fork();
	if (child == 0)
		_exit(6);
	for (int i = 0; i < 5000 && !caught; i++)
		pause_ms(1);
	PROMISE("SIGCHLD tells who and how", caught == 1 && caught_pid == child &&
		caught_code == CLD_EXITED);
	PROMISE("wait", waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 6);
	signal(SIGCHLD, SIG_DFL);
	NEED(pipe(pipe_ends) == 0);
	close(pipe_ends[0]);
	handle(SIGPIPE, notes, 0);
	caught = 0;
	PROMISE("a pipe nobody reads is SIGPIPE and EPIPE",
		write(pipe_ends[1], "x", 1) == -1 && errno == EPIPE && caught == 1);
	signal(SIGPIPE, SIG_IGN);
	PROMISE("EPIPE alone when ignored", write(pipe_ends[1], "x", 1) == -1 && errno == EPIPE);
	close(pipe_ends[1]);
	signal(SIGPIPE, SIG_DFL);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"actions", actions},
		{"information", information},
		{"masks", masks},
		{"inheritance", inheritance},
		{"queues", queues},
		{"waits", waits},
		{"restarts", restarts},
		{"nesting", nesting},
		{"alternate_stacks", alternate_stacks},
		{"faults", faults},
		{"ends", ends},
		{"own_faults", own_faults},
		{"contexts", contexts},
		{"descriptors", descriptors},
		{"threads", threads},
		{"process_directed", process_directed},
		{"children", children},
	};

	return RUN_TESTS(tests);
}
