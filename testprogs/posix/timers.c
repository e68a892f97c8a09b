// SPDX-License-Identifier: GPL-2.0-or-later
/* Clocks, sleeps, timers. */
#include "posix.h"
#include <sys/timerfd.h>
#include <sys/times.h>

static volatile sig_atomic_t caught, caught_code, caught_value;
static volatile pid_t caught_thread;
static atomic_int ran, ran_value;

static void notes(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	caught_code = info->si_code;
	caught_value = info->si_value.sival_int;
	caught_thread = gettid();
	caught++;
}

static int wait_for_caught(int count)
{
	for (int i = 0; i < 5000 && caught < count; i++)
		pause_ms(1);
	return caught >= count;
}

static void clocks(void)
{
	struct timespec value;
	int64_t last = 0, now;
	int backwards = 0;

	PROMISE("getres", clock_getres(CLOCK_MONOTONIC, &value) == 0 && value.tv_sec == 0 &&
		value.tv_nsec > 0);
	PROMISE("getres of a bad clock is EINVAL",
		clock_getres(77777, &value) == -1 && errno == EINVAL);
	PROMISE("gettime of a bad clock is EINVAL",
		clock_gettime(77777, &value) == -1 && errno == EINVAL);
	PROMISE("settime of the monotonic one is refused",
		clock_settime(CLOCK_MONOTONIC, &value) == -1 && (errno == EINVAL || errno == EPERM));
	for (int i = 0; i < 200; i++) {
		now = now_ns(CLOCK_MONOTONIC);
		backwards += now < last;
		last = now;
	}
	PROMISE("monotonic", !backwards);
	now = now_ns(CLOCK_REALTIME) / 1000000000;
	PROMISE("time agrees", labs((long)(now - time(NULL))) <= 1);
	PROMISE("boot time is not before", now_ns(CLOCK_BOOTTIME) >= last);
	PROMISE("coarse is not after", now_ns(CLOCK_MONOTONIC_COARSE) <= now_ns(CLOCK_MONOTONIC));
	PROMISE("clock and times", clock() != (clock_t)-1 && times(NULL) != (clock_t)-1);
}

static void sleeps(void)
{
	struct timespec time = {0, 1000000000}, short_time = {0, 20000000}, at;
	int64_t before = now_ns(CLOCK_MONOTONIC);

	PROMISE("a bad time is EINVAL", nanosleep(&time, NULL) == -1 && errno == EINVAL);
	PROMISE("nanosleep", nanosleep(&short_time, NULL) == 0);
	PROMISE("as long as asked", now_ns(CLOCK_MONOTONIC) - before >= 20000000);
	at = in_ms(CLOCK_MONOTONIC, 20);
	PROMISE("until a time", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == 0);
	PROMISE("which has come", now_ns(CLOCK_MONOTONIC) >=
		at.tv_sec * 1000000000LL + at.tv_nsec);
	PROMISE("one that is past", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == 0);
	PROMISE("a bad clock is EINVAL", clock_nanosleep(77777, 0, &at, NULL) == EINVAL);
	PROMISE("usleep and sleep", usleep(1000) == 0 && sleep(0) == 0);
}

static void with_signal(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec spec = {.it_value = {0, 10000000}}, old, bad = {.it_value = {0, -1}};
	timer_t timer;

	event.sigev_value.sival_int = 55;
	handle(SIGUSR1, notes, 0);
	PROMISE("a bad clock is EINVAL", timer_create(77777, &event, &timer) == -1 &&
		errno == EINVAL);
	PROMISE("create", timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	PROMISE("a bad time is EINVAL",
		timer_settime(timer, 0, &bad, NULL) == -1 && errno == EINVAL);
	caught = 0;
	PROMISE("set", timer_settime(timer, 0, &spec, NULL) == 0);
	PROMISE("expires once", wait_for_caught(1));
	PROMISE("its signal says so", caught_code == SI_TIMER && caught_value == 55);
	pause_ms(20);
	PROMISE("not again", caught == 1);
	spec.it_interval.tv_nsec = 3000000;
	timer_settime(timer, 0, &spec, NULL);
	PROMISE("and again with an interval", wait_for_caught(4));
	PROMISE("gettime has the interval", timer_gettime(timer, &old) == 0 &&
		old.it_interval.tv_nsec == 3000000);
	spec.it_value.tv_nsec = 0;
	timer_settime(timer, 0, &spec, &old);
	PROMISE("disarmed", timer_gettime(timer, &old) == 0 && old.it_value.tv_nsec == 0 &&
		old.it_value.tv_sec == 0);
	PROMISE("delete", timer_delete(timer) == 0);
	PROMISE("delete again is EINVAL",
		syscall(SYS_timer_delete, 123456) == -1 && errno == EINVAL);
	signal(SIGUSR1, SIG_DFL);
}

static void overruns(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec spec = {.it_value = {0, 1000000}, .it_interval = {0, 1000000}};
	sigset_t set = set_of(SIGUSR1);
	siginfo_t info;
	timer_t timer;

	mask(SIG_BLOCK, SIGUSR1);
	NEED(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	timer_settime(timer, 0, &spec, NULL);
	pause_ms(30);
	PROMISE("one waits", sigwaitinfo(&set, &info) == SIGUSR1 && info.si_code == SI_TIMER);
	PROMISE("the others are counted", timer_getoverrun(timer) >= 10 && info.si_overrun >= 10);
	timer_delete(timer);
	while (sigtimedwait(&set, &info, &(struct timespec){0, 0}) > 0)
		;
	mask(SIG_UNBLOCK, SIGUSR1);
}

static void runs(union sigval value)
{
	atomic_store(&ran_value, value.sival_int);
	atomic_fetch_add(&ran, 1);
}

static void with_thread(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = runs};
	struct itimerspec spec = {.it_value = {0, 5000000}, .it_interval = {0, 5000000}};
	timer_t timer;

	event.sigev_value.sival_int = 66;
	PROMISE("create", timer_create(CLOCK_REALTIME, &event, &timer) == 0);
	atomic_store(&ran, 0);
	PROMISE("set", timer_settime(timer, 0, &spec, NULL) == 0);
	PROMISE("its function runs in a thread, again and again", reached(&ran, 3));
	PROMISE("with its value", atomic_load(&ran_value) == 66);
	PROMISE("delete", timer_delete(timer) == 0);
}

static void with_thread_id(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
	struct itimerspec spec = {.it_value = {0, 5000000}};
	timer_t timer;

	event._sigev_un._tid = gettid();
	handle(SIGUSR2, notes, 0);
	caught = 0;
	PROMISE("create", timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	timer_settime(timer, 0, &spec, NULL);
	PROMISE("its signal comes to that thread", wait_for_caught(1) && caught_thread == gettid());
	timer_delete(timer);
	/* While the thread does not call the kernel at all. */
	NEED(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	caught = 0;
	timer_settime(timer, 0, &spec, NULL);
	while (!caught)
		;
	PROMISE("also to one that computes", caught_thread == gettid());
	timer_delete(timer);
	signal(SIGUSR2, SIG_DFL);
}

static void without_notice(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_NONE};
	struct itimerspec spec = {.it_value = {100, 0}}, left;
	struct timespec at;
	timer_t timer;

	PROMISE("create", timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	timer_settime(timer, 0, &spec, NULL);
	PROMISE("gettime tells what is left", timer_gettime(timer, &left) == 0 &&
		left.it_value.tv_sec >= 90 && left.it_value.tv_sec < 100);
	at = in_ms(CLOCK_MONOTONIC, 50000);
	spec.it_value = at;
	timer_settime(timer, TIMER_ABSTIME, &spec, NULL);
	PROMISE("until a time", timer_gettime(timer, &left) == 0 &&
		left.it_value.tv_sec >= 40 && left.it_value.tv_sec < 50);
	timer_delete(timer);
}

static void intervals(void)
{
	struct itimerval value = {.it_value = {0, 10000}}, old, bad = {.it_value = {0, 2000000}};

	handle(SIGALRM, notes, 0);
	handle(SIGVTALRM, notes, 0);
	handle(SIGPROF, notes, 0);
	PROMISE("a bad time is EINVAL", setitimer(ITIMER_REAL, &bad, NULL) == -1 && errno == EINVAL);
	PROMISE("a bad timer is EINVAL", setitimer(9, &value, NULL) == -1 && errno == EINVAL);
	caught = 0;
	PROMISE("real", setitimer(ITIMER_REAL, &value, NULL) == 0 && wait_for_caught(1));
	PROMISE("alarm", alarm(100) == 0);
	PROMISE("getitimer", getitimer(ITIMER_REAL, &old) == 0 && old.it_value.tv_sec >= 90);
	PROMISE("alarm tells what was left", alarm(0) >= 90);
	caught = 0;
	NEED(setitimer(ITIMER_VIRTUAL, &value, NULL) == 0);
	while (!caught)
		;
	PROMISE("virtual, while it computes", caught == 1);
	caught = 0;
	NEED(setitimer(ITIMER_PROF, &value, NULL) == 0);
	while (!caught)
		;
	PROMISE("profiling", caught == 1);
	signal(SIGALRM, SIG_DFL);
	signal(SIGVTALRM, SIG_DFL);
	signal(SIGPROF, SIG_DFL);
}

static void descriptors(void)
{
	struct itimerspec spec = {.it_value = {0, 5000000}, .it_interval = {0, 5000000}}, now;
	uint64_t count = 0;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

	PROMISE("create", fd >= 0);
	PROMISE("not yet is EAGAIN", read(fd, &count, 8) == -1 && errno == EAGAIN);
	PROMISE("set", timerfd_settime(fd, 0, &spec, NULL) == 0);
	pause_ms(30);
	PROMISE("counts", read(fd, &count, 8) == 8 && count >= 5);
	PROMISE("gettime", timerfd_gettime(fd, &now) == 0 && now.it_interval.tv_nsec == 5000000);
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"clocks", clocks},
		{"sleeps", sleeps},
		{"with_signal", with_signal},
		{"overruns", overruns},
		{"with_thread", with_thread},
		{"with_thread_id", with_thread_id},
		{"without_notice", without_notice},
		{"intervals", intervals},
		{"descriptors", descriptors},
	};

	return RUN_TESTS(tests);
}
