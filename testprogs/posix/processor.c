// SPDX-License-Identifier: GPL-2.0-or-later
/* Timers of processor time, used by a thread beside the one that asks. */
#include "posix.h"
#include <sys/utsname.h>

enum { USE_MS = 300 };

static atomic_int caught, caught_by_worker;
static volatile sig_atomic_t caught_code, caught_value;
static volatile pid_t caught_thread, worker_tid;
static atomic_int stop, ready, go;

static void notes(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	caught_code = info->si_code;
	caught_value = info->si_value.sival_int;
	caught_thread = gettid();
	caught_by_worker += gettid() == worker_tid;
	caught++;
}

static void compute(void)
{
	for (volatile int i = 0; i < 3000000; i++)
		;
}

/* Uses USE_MS of processor time; how much it was, in milliseconds. */
static void *uses_some(void *unused)
{
	int64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID), used;

	(void)unused;
	worker_tid = gettid();
	atomic_store(&ready, 1);
	while (!atomic_load(&go))
		pause_ms(1);
	do {
		compute();
		used = now_ns(CLOCK_THREAD_CPUTIME_ID) - before;
	} while (used < USE_MS * 1000000LL);
	return (void *)(intptr_t)(used / 1000000);
}

static void *uses_until_stopped(void *unused)
{
	(void)unused;
	worker_tid = gettid();
	atomic_store(&ready, 1);
	while (!atomic_load(&stop))
		compute();
	return NULL;
}

/* A thread that will use USE_MS when `go` is set; signals of `blocked` are not for it. */
static pthread_t worker(int blocked)
{
	pthread_t thread;

	atomic_store(&ready, 0);
	atomic_store(&go, 0);
	caught = caught_by_worker = 0;
	if (blocked)
		mask(SIG_BLOCK, blocked);
	thread = start(uses_some, NULL);
	while (!atomic_load(&ready))
		pause_ms(1);
	return thread;
}

static int finished(pthread_t thread)
{
	atomic_store(&go, 1);
	return (int)(intptr_t)join(thread);
}

static struct itimerval every_ms(int ms)
{
	return (struct itimerval){{0, ms * 1000}, {0, ms * 1000}};
}

static void profile(void)
{
	struct itimerval every = every_ms(10), off = every_ms(0), now, before;
	pthread_t thread = worker(0);
	int used, count;

	handle(SIGPROF, notes, SA_RESTART);
	PROMISE("set", setitimer(ITIMER_PROF, &every, &before) == 0);
	PROMISE("it was not", before.it_value.tv_usec == 0 && before.it_interval.tv_usec == 0);
	used = finished(thread);
	PROMISE("get", getitimer(ITIMER_PROF, &now) == 0);
	PROMISE("it goes on", now.it_interval.tv_usec == 10000 && now.it_value.tv_sec == 0 &&
		now.it_value.tv_usec > 0 && now.it_value.tv_usec <= 10000);
	PROMISE("unset", setitimer(ITIMER_PROF, &off, NULL) == 0);
	count = caught;
	PROMISE("signals came", count >= 3);
	PROMISE("no more than there was time for", count <= used / 10 + 20);
	PROMISE("from the kernel", caught_code == SI_KERNEL);
	PROMISE("to the thread that uses the time", 2 * caught_by_worker > count);
	thread = worker(0);
	finished(thread);
	PROMISE("and none more", caught == 0);
	PROMISE("get of what is not set", getitimer(ITIMER_PROF, &now) == 0 &&
		now.it_value.tv_sec == 0 && now.it_value.tv_usec == 0);
	every.it_value.tv_usec = 1000000;
	PROMISE("a bad time is EINVAL",
		setitimer(ITIMER_PROF, &every, NULL) == -1 && errno == EINVAL);
	PROMISE("a bad timer is EINVAL", setitimer(7, &off, NULL) == -1 && errno == EINVAL);
	PROMISE("a bad pointer is EFAULT",
		syscall(SYS_setitimer, ITIMER_PROF, 8, NULL) == -1 && errno == EFAULT);
	signal(SIGPROF, SIG_DFL);
}

static void virtual(void)
{
	struct itimerval once = {{0, 0}, {0, 50000}}, now;
	pthread_t thread = worker(0);

	handle(SIGVTALRM, notes, 0);
	PROMISE("set", setitimer(ITIMER_VIRTUAL, &once, NULL) == 0);
	finished(thread);
	PROMISE("one signal", caught == 1 && caught_code == SI_KERNEL);
	PROMISE("it is over", getitimer(ITIMER_VIRTUAL, &now) == 0 && now.it_value.tv_usec == 0);
	signal(SIGVTALRM, SIG_DFL);
}

static void blocked(void)
{
	struct itimerval every = every_ms(10), off = every_ms(0);
	struct timespec none = {0, 0};
	sigset_t set = set_of(SIGPROF), pending;
	pthread_t thread;
	siginfo_t info;

	handle(SIGPROF, notes, 0);
	thread = worker(SIGPROF);
	NEED(setitimer(ITIMER_PROF, &every, NULL) == 0);
	finished(thread);
	NEED(setitimer(ITIMER_PROF, &off, NULL) == 0);
	PROMISE("is pending", sigpending(&pending) == 0 && sigismember(&pending, SIGPROF));
	PROMISE("can be waited for", sigtimedwait(&set, &info, &none) == SIGPROF &&
		info.si_code == SI_KERNEL);
	PROMISE("once only", sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
	PROMISE("no handler ran", caught == 0);
	mask(SIG_UNBLOCK, SIGPROF);
	signal(SIGPROF, SIG_DFL);
}

static void ignored(void)
{
	struct itimerval every = every_ms(5), off = every_ms(0);
	pthread_t thread = worker(0);

	signal(SIGPROF, SIG_IGN);
	NEED(setitimer(ITIMER_PROF, &every, NULL) == 0);
	finished(thread);
	PROMISE("is ignored", setitimer(ITIMER_PROF, &off, NULL) == 0);
	signal(SIGPROF, SIG_DFL);
}

/* Linux 6.13 and later: the signal of a timer that has been deleted, or set anew. */
static int drops_signals(void)
{
	struct utsname system;
	int major = 0, minor = 0;

	NEED(uname(&system) == 0 && sscanf(system.release, "%d.%d", &major, &minor) == 2);
	return major > 6 || (major == 6 && minor >= 13);
}

static void of_process(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2,
				 .sigev_value.sival_int = 4711};
	struct itimerspec every = {{0, 5000000}, {0, 5000000}}, now;
	struct timespec none = {0, 0};
	sigset_t set = set_of(SIGRTMIN + 2);
	siginfo_t info = {0};
	pthread_t thread;
	timer_t timer;
	int used;

	PROMISE("create", timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == 0);
	PROMISE("it is not set", timer_gettime(timer, &now) == 0 && now.it_value.tv_nsec == 0 &&
		now.it_interval.tv_nsec == 0);
	thread = worker(SIGRTMIN + 2);
	PROMISE("set", timer_settime(timer, 0, &every, NULL) == 0);
	used = finished(thread);
	PROMISE("get", timer_gettime(timer, &now) == 0 && now.it_interval.tv_nsec == 5000000 &&
		now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 5000000);
	PROMISE("its signal", sigtimedwait(&set, &info, &none) == SIGRTMIN + 2 &&
		info.si_code == SI_TIMER && info.si_value.sival_int == 4711);
	PROMISE("overruns", info.si_overrun >= used / 5 - 20 &&
		info.si_overrun <= used / 5 + 20);
	PROMISE("they are told again", timer_getoverrun(timer) == info.si_overrun);
	every.it_value.tv_nsec = 1000000000;
	PROMISE("a bad time is EINVAL",
		timer_settime(timer, 0, &every, NULL) == -1 && errno == EINVAL);
	for (int i = 0; i < 20; i++)
		compute();
	caught = 0;
	handle(SIGRTMIN + 2, notes, 0);
	PROMISE("delete", timer_delete(timer) == 0);
	PROMISE("then it is EINVAL", syscall(SYS_timer_gettime, (long)timer, &now) == -1 &&
		errno == EINVAL);
	event.sigev_signo = 99;
	PROMISE("a bad signal is EINVAL",
		timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == -1 && errno == EINVAL);
	mask(SIG_UNBLOCK, SIGRTMIN + 2);
	PROMISE("its signal does not come any more", caught == 0 || !drops_signals());
	signal(SIGRTMIN + 2, SIG_DFL);
}

static void handled(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1,
				 .sigev_value.sival_int = 42};
	struct itimerspec at = {{0, 0}, {0, 0}}, now;
	int64_t process = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 60000000;
	pthread_t thread = worker(0);
	timer_t timer;

	handle(SIGUSR1, notes, SA_RESTART);
	NEED(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == 0);
	at.it_value = (struct timespec){process / 1000000000, process % 1000000000};
	PROMISE("set to a time of the clock", timer_settime(timer, TIMER_ABSTIME, &at, NULL) == 0);
	finished(thread);
	PROMISE("one signal", caught == 1 && caught_code == SI_TIMER && caught_value == 42);
	PROMISE("it is over", timer_gettime(timer, &now) == 0 && now.it_value.tv_sec == 0 &&
		now.it_value.tv_nsec == 0);
	caught = 0;
	at.it_value = (struct timespec){0, 1};
	PROMISE("a time that is past", timer_settime(timer, TIMER_ABSTIME, &at, NULL) == 0);
	for (int i = 0; i < 2000 && !caught; i++)
		pause_ms(1);
	PROMISE("is now", caught == 1);
	timer_delete(timer);
	signal(SIGUSR1, SIG_DFL);
}

static void of_thread(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
	struct itimerspec once = {{0, 0}, {0, 50000000}}, now;
	pthread_t thread = worker(0);
	timer_t timer, own;
	clockid_t clock;

	handle(SIGUSR2, notes, SA_RESTART);
	event._sigev_un._tid = worker_tid;
	NEED(pthread_getcpuclockid(thread, &clock) == 0);
	PROMISE("create for another", timer_create(clock, &event, &timer) == 0);
	event._sigev_un._tid = gettid();
	PROMISE("and one's own", timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &own) == 0);
	NEED(timer_settime(timer, 0, &once, NULL) == 0);
	once.it_value.tv_nsec = 200000000;
	NEED(timer_settime(own, 0, &once, NULL) == 0);
	finished(thread);
	PROMISE("one signal", caught == 1 && caught_code == SI_TIMER);
	PROMISE("to that thread", caught_thread == worker_tid);
	PROMISE("what others use is not counted", timer_gettime(own, &now) == 0 &&
		now.it_value.tv_nsec > 100000000);
	event._sigev_un._tid = getpid() + 100000;
	timer_delete(timer);
	PROMISE("nobody's thread is EINVAL",
		timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == -1 && errno == EINVAL);
	timer_delete(own);
	signal(SIGUSR2, SIG_DFL);
}

static void sleeps(void)
{
	struct timespec time = {0, 100000000}, left = {0, 0};
	struct itimerval soon = {{0, 0}, {0, 30000}};
	int64_t before;
	pthread_t thread;

	atomic_store(&stop, 0);
	atomic_store(&ready, 0);
	thread = start(uses_until_stopped, NULL);
	while (!atomic_load(&ready))
		pause_ms(1);
	before = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	PROMISE("until so much is used",
		clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &time, NULL) == 0);
	PROMISE("not less", now_ns(CLOCK_PROCESS_CPUTIME_ID) - before >= 100000000);
	before += 250000000;
	time = (struct timespec){before / 1000000000, before % 1000000000};
	PROMISE("until a time", clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, TIMER_ABSTIME, &time,
						NULL) == 0);
	PROMISE("not before", now_ns(CLOCK_PROCESS_CPUTIME_ID) >= before);
	atomic_store(&stop, 1);
	join(thread);
	time = (struct timespec){50, 0};
	handle(SIGALRM, notes, 0);
	NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
	PROMISE("interrupted",
		clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &time, &left) == EINTR);
	PROMISE("with the time left", left.tv_sec >= 48 && left.tv_sec < 50);
	PROMISE("not by one's own clock",
		syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL) == -1 &&
		errno == EOPNOTSUPP);
	signal(SIGALRM, SIG_DFL);
}

static void child_has_none(void)
{
	struct itimerval now;

	if (getitimer(ITIMER_PROF, &now) != 0 || now.it_value.tv_sec || now.it_value.tv_usec)
		abort();
}

static void inheritance(void)
{
	struct itimerval later = {{0, 0}, {100, 0}}, off = every_ms(0), now;

	NEED(setitimer(ITIMER_PROF, &later, NULL) == 0);
	PROMISE("a child has no timer", status_of(child_has_none) == 0);
	PROMISE("its parent has", getitimer(ITIMER_PROF, &now) == 0 && now.it_value.tv_sec >= 50);
	NEED(setitimer(ITIMER_PROF, &off, NULL) == 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"profile", profile},
		{"virtual", virtual},
		{"blocked", blocked},
		{"ignored", ignored},
		{"of_process", of_process},
		{"handled", handled},
		{"of_thread", of_thread},
		{"sleeps", sleeps},
		{"inheritance", inheritance},
	};

	return RUN_TESTS(tests);
}
