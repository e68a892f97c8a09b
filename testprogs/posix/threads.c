// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads: creation, attributes, ends, cancellation, keys, clocks, scheduling. */
#include "posix.h"
#include <dirent.h>
#include <sys/times.h>

static atomic_int flag, turns;

static void *answers(void *arg)
{
	return (char *)arg + 1;
}

static void *waits_for_flag(void *arg)
{
	(void)arg;
	reached(&flag, 1);
	return NULL;
}

static void *ends_by_exit(void *arg)
{
	pthread_exit((char *)arg + 2);
}

static void creation(void)
{
	pthread_t thread;
	struct timespec time = in_ms(CLOCK_REALTIME, 20);
	void *value = NULL;
	char word[4];

	PROMISE("create", pthread_create(&thread, NULL, answers, word) == 0);
	PROMISE("join gives the value", pthread_join(thread, &value) == 0 && value == word + 1);
	PROMISE("join gives pthread_exit's", join(start(ends_by_exit, word)) == word + 2);
	PROMISE("self is equal to self", pthread_equal(pthread_self(), pthread_self()));
	PROMISE("join of self is EDEADLK", pthread_join(pthread_self(), NULL) == EDEADLK);
	atomic_store(&flag, 0);
	thread = start(waits_for_flag, NULL);
	PROMISE("tryjoin of a running one is EBUSY", pthread_tryjoin_np(thread, NULL) == EBUSY);
	PROMISE("timedjoin is ETIMEDOUT", pthread_timedjoin_np(thread, NULL, &time) == ETIMEDOUT);
	PROMISE("kill with 0 of a running one", pthread_kill(thread, 0) == 0);
	PROMISE("kill with a bad number is EINVAL", pthread_kill(thread, 999) == EINVAL);
	PROMISE("detach", pthread_detach(thread) == 0);
	PROMISE("detach again is EINVAL", pthread_detach(thread) == EINVAL);
	PROMISE("join of a detached one is EINVAL", pthread_join(thread, NULL) == EINVAL);
	atomic_store(&flag, 1);
	pause_ms(5);
}

static size_t stack_of_thread;
static int local_is_inside;

static void *measures(void *arg)
{
	pthread_attr_t attr;
	void *low;
	char local;

	(void)arg;
	NEED(pthread_getattr_np(pthread_self(), &attr) == 0);
	NEED(pthread_attr_getstack(&attr, &low, &stack_of_thread) == 0);
	local_is_inside = &local >= (char *)low && &local < (char *)low + stack_of_thread;
	pthread_attr_destroy(&attr);
	return NULL;
}

static void *deep(void *arg)
{
	volatile char room[200000];

	(void)arg;
	for (size_t i = 0; i < sizeof room; i += 1000)
		room[i] = (char)i;
	return (void *)(intptr_t)(room[1000] == (char)1000);
}

static void attributes(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	size_t size = 0;
	int value;
	char *stack;
	void *answer;

	NEED(pthread_attr_init(&attr) == 0);
	PROMISE("joinable by default", pthread_attr_getdetachstate(&attr, &value) == 0 &&
		value == PTHREAD_CREATE_JOINABLE);
	PROMISE("a bad state is EINVAL", pthread_attr_setdetachstate(&attr, 77) == EINVAL);
	PROMISE("too small a stack is EINVAL", pthread_attr_setstacksize(&attr, 100) == EINVAL);
	PROMISE("a bad policy is EINVAL", pthread_attr_setschedpolicy(&attr, 77) == EINVAL);
	PROMISE("a bad scope is refused", pthread_attr_setscope(&attr, 77) != 0);
	PROMISE("stack size", pthread_attr_setstacksize(&attr, 512 << 10) == 0 &&
		pthread_attr_getstacksize(&attr, &size) == 0 && size == 512 << 10);
	PROMISE("guard size", pthread_attr_setguardsize(&attr, 8192) == 0 &&
		pthread_attr_getguardsize(&attr, &size) == 0 && size == 8192);
	NEED(pthread_create(&thread, &attr, measures, NULL) == 0);
	join(thread);
	PROMISE("a thread has the stack asked for",
		stack_of_thread >= (500 << 10) && stack_of_thread <= (520 << 10));
	PROMISE("its locals lie in it", local_is_inside);
	measures(NULL);
	PROMISE("so do this thread's", local_is_inside);
	NEED(pthread_create(&thread, &attr, deep, NULL) == 0);
	PROMISE("the stack can be used", join(thread));
	stack = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(stack != MAP_FAILED);
	PROMISE("a stack of one's own", pthread_attr_setstack(&attr, stack, 1 << 20) == 0);
	NEED(pthread_create(&thread, &attr, deep, NULL) == 0);
	PROMISE("it is used", pthread_join(thread, &answer) == 0 && answer);
	munmap(stack, 1 << 20);
	PROMISE("detached", pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0);
	PROMISE("destroy", pthread_attr_destroy(&attr) == 0);
}

static void overflows(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	pthread_create(&thread, &attr, deep, NULL);
	pthread_join(thread, NULL);
}

static void guards(void)
{
	PROMISE("beyond its guard a stack ends in SIGSEGV",
		killed_by(status_of(overflows), SIGSEGV));
}

static pthread_key_t keys[3];
static atomic_int destroyed;

static void destroys(void *value)
{
	atomic_fetch_add(&destroyed, (int)(intptr_t)value);
}

static void sets_again(void *value)
{
	atomic_fetch_add(&destroyed, 100);
	if ((intptr_t)value < 3)
		pthread_setspecific(keys[2], (char *)value + 1);
}

static void *uses_keys(void *arg)
{
	int fresh = pthread_getspecific(keys[0]) == NULL;

	(void)arg;
	pthread_setspecific(keys[0], (void *)7);
	pthread_setspecific(keys[2], (void *)1);
	return (void *)(intptr_t)(fresh && pthread_getspecific(keys[0]) == (void *)7);
}

static void thread_keys(void)
{
	pthread_key_t many[PTHREAD_KEYS_MAX + 1];
	int count = 0, result = 0;

	NEED(pthread_key_create(&keys[0], destroys) == 0);
	NEED(pthread_key_create(&keys[1], NULL) == 0);
	NEED(pthread_key_create(&keys[2], sets_again) == 0);
	PROMISE("set", pthread_setspecific(keys[0], (void *)5) == 0);
	PROMISE("another thread has its own", join(start(uses_keys, NULL)));
	PROMISE("get", pthread_getspecific(keys[0]) == (void *)5);
	PROMISE("destructors ran, again while values were set", atomic_load(&destroyed) == 307);
	PROMISE("delete", pthread_key_delete(keys[1]) == 0);
	PROMISE("delete again is EINVAL", pthread_key_delete(keys[1]) == EINVAL);
	PROMISE("set of a deleted one is EINVAL", pthread_setspecific(keys[1], &count) == EINVAL);
	while (count <= PTHREAD_KEYS_MAX && (result = pthread_key_create(&many[count], NULL)) == 0)
		count++;
	PROMISE("too many are EAGAIN", result == EAGAIN);
	while (count-- > 0)
		pthread_key_delete(many[count]);
	pthread_setspecific(keys[0], NULL);
	pthread_key_delete(keys[0]);
	pthread_key_delete(keys[2]);
}

static int cleaned[3], cleanups;

static void cleans(void *which)
{
	cleaned[cleanups++] = (int)(intptr_t)which;
}

static pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int pipe_ends[2];
static sem_t semaphore;

static void unlocks(void *arg)
{
	(void)arg;
	cleaned[0] = pthread_mutex_unlock(&mutex);
}

static void *in_condition(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&mutex);
	pthread_cleanup_push(unlocks, NULL);
	atomic_store(&flag, 1);
	for (;;)
		pthread_cond_wait(&condition, &mutex);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *in_read(void *arg)
{
	char byte;

	(void)arg;
	pthread_cleanup_push(cleans, (void *)1);
	pthread_cleanup_push(cleans, (void *)2);
	atomic_store(&flag, 1);
	if (read(pipe_ends[0], &byte, 1) == 1)
		return NULL;
	pthread_cleanup_pop(0);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *in_sleep(void *arg)
{
	struct timespec time = {100, 0};

	(void)arg;
	atomic_store(&flag, 1);
	nanosleep(&time, NULL);
	return NULL;
}

static void *in_semaphore(void *arg)
{
	(void)arg;
	atomic_store(&flag, 1);
	sem_wait(&semaphore);
	return NULL;
}

static void *in_join(void *arg)
{
	atomic_store(&turns, 1);
	pthread_join(*(pthread_t *)arg, NULL);
	return NULL;
}

static void *in_sigwait(void *arg)
{
	sigset_t set = set_of(SIGUSR2);
	int number;

	(void)arg;
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	atomic_store(&flag, 1);
	sigwait(&set, &number);
	return NULL;
}

static void *in_loop(void *arg)
{
	int old;

	(void)arg;
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
	atomic_store(&flag, 1);
	for (;;)
		atomic_fetch_add_explicit(&turns, 1, memory_order_relaxed);
	return NULL;
}

static void *in_loop_with_tests(void *arg)
{
	(void)arg;
	atomic_store(&flag, 1);
	for (;;) {
		atomic_fetch_add_explicit(&turns, 1, memory_order_relaxed);
		pthread_testcancel();
	}
	return NULL;
}

static void *disabled(void *arg)
{
	int old;

	(void)arg;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	atomic_store(&flag, 1);
	reached(&flag, 2);
	pthread_testcancel();
	pause_ms(1);
	cleaned[0] = 99;
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_testcancel();
	return NULL;
}

static int cancelled(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	atomic_store(&flag, 0);
	cleanups = 0;
	thread = start(body, arg);
	NEED(reached(&flag, 1));
	pause_ms(3);
	NEED(pthread_cancel(thread) == 0);
	return join(thread) == PTHREAD_CANCELED;
}

static void cancellation(void)
{
	pthread_t thread, joiner;
	int old;

	NEED(pipe(pipe_ends) == 0);
	NEED(sem_init(&semaphore, 0, 0) == 0);
	PROMISE("of a read", cancelled(in_read, NULL));
	PROMISE("cleanups run, last first", cleanups == 2 && cleaned[0] == 2 && cleaned[1] == 1);
	PROMISE("of a sleep", cancelled(in_sleep, NULL));
	PROMISE("of a wait for a semaphore", cancelled(in_semaphore, NULL));
	cleaned[0] = -1;
	PROMISE("of a wait for a condition", cancelled(in_condition, NULL));
	PROMISE("the cleanup has the mutex", cleaned[0] == 0);
	PROMISE("of a sigwait", cancelled(in_sigwait, NULL));
	PROMISE("asynchronous, of a loop", cancelled(in_loop, NULL));
	PROMISE("deferred, at pthread_testcancel", cancelled(in_loop_with_tests, NULL));
	atomic_store(&flag, 0);
	thread = start(waits_for_flag, NULL);
	atomic_store(&turns, 0);
	joiner = start(in_join, &thread);
	NEED(reached(&turns, 1));
	pthread_cancel(joiner);
	PROMISE("of a join", join(joiner) == PTHREAD_CANCELED);
	atomic_store(&flag, 1);
	join(thread);
	atomic_store(&flag, 0);
	thread = start(disabled, NULL);
	NEED(reached(&flag, 1));
	pthread_cancel(thread);
	atomic_store(&flag, 2);
	PROMISE("disabled: only when enabled again",
		join(thread) == PTHREAD_CANCELED && cleaned[0] == 99);
	PROMISE("a bad state is EINVAL", pthread_setcancelstate(77, &old) == EINVAL);
	PROMISE("a bad type is EINVAL", pthread_setcanceltype(77, &old) == EINVAL);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

static void *named(void *arg)
{
	char name[16];

	(void)arg;
	atomic_store(&flag, 1);
	reached(&flag, 2);
	pthread_getname_np(pthread_self(), name, sizeof name);
	return (void *)(intptr_t)(strcmp(name, "renamed") == 0);
}

static void names(void)
{
	char name[16];
	pthread_t thread;

	PROMISE("set own", pthread_setname_np(pthread_self(), "own-name") == 0);
	PROMISE("get own", pthread_getname_np(pthread_self(), name, sizeof name) == 0 &&
		strcmp(name, "own-name") == 0);
	PROMISE("too long is ERANGE",
		pthread_setname_np(pthread_self(), "much-too-long-a-name") == ERANGE);
	PROMISE("too little room is ERANGE",
		pthread_getname_np(pthread_self(), name, 2) == ERANGE);
	atomic_store(&flag, 0);
	thread = start(named, NULL);
	NEED(reached(&flag, 1));
	PROMISE("set another's", pthread_setname_np(thread, "renamed") == 0);
	PROMISE("get another's", pthread_getname_np(thread, name, sizeof name) == 0 &&
		strcmp(name, "renamed") == 0);
	atomic_store(&flag, 2);
	PROMISE("it has it", join(thread));
}

/* Tens of milliseconds of work, however long others have the processor. */
static void work(void)
{
	for (volatile int i = 0; i < 30000000; i++)
		;
}

static void *works(void *arg)
{
	(void)arg;
	work();
	atomic_store(&flag, 1);
	reached(&flag, 2);
	return NULL;
}

static void clocks(void)
{
	clockid_t clock;
	pthread_t thread;
	int64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID), process, mine;
	struct rusage usage;

	atomic_store(&flag, 0);
	thread = start(works, NULL);
	NEED(reached(&flag, 1));
	PROMISE("another's processor clock", pthread_getcpuclockid(thread, &clock) == 0);
	PROMISE("it has run as long as it worked",
		now_ns(clock) > 5000000 && now_ns(clock) < 10000000000LL);
	mine = now_ns(CLOCK_THREAD_CPUTIME_ID) - before;
	process = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	PROMISE("the process's counts it too", process >= now_ns(clock));
	PROMISE("this thread's does not", mine < 1000000000);
	before = now_ns(CLOCK_THREAD_CPUTIME_ID);
	work();
	PROMISE("this thread's runs while it works",
		now_ns(CLOCK_THREAD_CPUTIME_ID) - before > 2000000);
	PROMISE("getrusage of the thread", getrusage(RUSAGE_THREAD, &usage) == 0 &&
		usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec +
		usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec > 1000);
	atomic_store(&flag, 2);
	join(thread);
}

static int64_t process_ns(void)
{
	struct rusage usage;

	NEED(getrusage(RUSAGE_SELF, &usage) == 0);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000LL +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
}

/* Works on each processor in turn; whether its clock ran as long everywhere. */
static void *works_everywhere(void *arg)
{
	cpu_set_t all, one;
	int64_t least = INT64_MAX, most = 0, begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
	int count = 0;

	(void)arg;
	NEED(sched_getaffinity(0, sizeof all, &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		int64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID), used;

		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		NEED(sched_setaffinity(0, sizeof one, &one) == 0);
		work();
		used = now_ns(CLOCK_THREAD_CPUTIME_ID) - before;
		least = used < least ? used : least;
		most = used > most ? used : most;
		count++;
	}
	NEED(sched_setaffinity(0, sizeof all, &all) == 0);
	return (void *)(intptr_t)(least > 5000000 && most < 50 * least &&
		now_ns(CLOCK_THREAD_CPUTIME_ID) - begun >= count * least);
}

static void *only_works(void *arg)
{
	(void)arg;
	work();
	return NULL;
}

static void *reads_clocks(void *arg)
{
	int64_t last[3] = {0, 0, 0};
	int good = 1;

	(void)arg;
	for (int i = 0; i < 200; i++) {
		int64_t now[3] = {
			now_ns(CLOCK_PROCESS_CPUTIME_ID), now_ns(CLOCK_THREAD_CPUTIME_ID),
			process_ns()};

		for (int j = 0; j < 3; j++) {
			good &= now[j] >= last[j];
			last[j] = now[j];
		}
	}
	return (void *)(intptr_t)good;
}

static void sums_of_clocks(void)
{
	int64_t before, used, ended;
	clock_t clock_before;
	struct tms start_times, end_times;
	pthread_t threads[3];
	clockid_t clock_id;

	PROMISE("its clock runs on each processor", join(start(works_everywhere, NULL)));
	before = now_ns(CLOCK_THREAD_CPUTIME_ID);
	work();
	used = now_ns(CLOCK_THREAD_CPUTIME_ID) - before;
	before = process_ns();
	clock_before = clock();
	NEED(times(&start_times) != (clock_t)-1);
	for (int i = 0; i < 3; i++)
		threads[i] = start(only_works, NULL);
	for (int i = 0; i < 3; i++)
		join(threads[i]);
	NEED(times(&end_times) != (clock_t)-1);
	ended = process_ns() - before;
	PROMISE("getrusage counts threads that have ended", ended > used / 4 && ended < 100 * used);
	ended = (int64_t)(clock() - clock_before) * (1000000000 / CLOCKS_PER_SEC);
	PROMISE("so does clock", ended > used / 4 && ended < 100 * used);
	ended = (end_times.tms_utime + end_times.tms_stime - start_times.tms_utime -
		start_times.tms_stime) * (1000000000LL / sysconf(_SC_CLK_TCK));
	PROMISE("so does times", ended > used / 4 && ended < 100 * used);
	NEED(clock_getcpuclockid(getpid(), &clock_id) == 0);
	PROMISE("the process's clock by its id", now_ns(clock_id) >= before + used / 4);
	PROMISE("they do not go back", join(start(reads_clocks, NULL)));
	PROMISE("nor here", reads_clocks(NULL));
	before = process_ns();
	pause_ms(300);
	PROMISE("asleep it uses none", process_ns() - before < 100000000);
}

static void *tells_id(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)gettid();
}

static int has_task(pid_t id)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int found = 0;

	NEED(dir);
	while ((entry = readdir(dir)))
		found |= atoi(entry->d_name) == id;
	closedir(dir);
	return found;
}

static atomic_int its_id;

static void *lives_with_id(void *arg)
{
	atomic_store(&its_id, gettid());
	return waits_for_flag(arg);
}

static void identity(void)
{
	pthread_t thread;

	PROMISE("thread ids differ", (pid_t)(intptr_t)join(start(tells_id, NULL)) != gettid());
	PROMISE("process ids do not", getpid() == syscall(SYS_getpid));
	atomic_store(&flag, 0);
	atomic_store(&its_id, 0);
	thread = start(lives_with_id, NULL);
	NEED(reached(&its_id, 1));
	PROMISE("/proc/self/task has it", has_task(its_id) && has_task(gettid()));
	atomic_store(&flag, 1);
	join(thread);
	PROMISE("tgkill of none is ESRCH",
		syscall(SYS_tgkill, getpid(), 0x3ffffff, 0) == -1 && errno == ESRCH);
}

static void scheduling(void)
{
	struct sched_param param = {0};
	int policy = -1, least = sched_get_priority_min(SCHED_FIFO);

	PROMISE("getschedparam", pthread_getschedparam(pthread_self(), &policy, &param) == 0 &&
		policy == SCHED_OTHER);
	PROMISE("priorities", sched_get_priority_max(SCHED_FIFO) - least >= 31);
	PROMISE("priorities of a bad policy are EINVAL",
		sched_get_priority_max(77) == -1 && errno == EINVAL);
	param.sched_priority = 1000;
	PROMISE("a bad priority is EINVAL",
		pthread_setschedparam(pthread_self(), SCHED_FIFO, &param) == EINVAL);
	param.sched_priority = 0;
	PROMISE("batch", pthread_setschedparam(pthread_self(), SCHED_BATCH, &param) == 0);
	PROMISE("it is", pthread_getschedparam(pthread_self(), &policy, &param) == 0 &&
		policy == SCHED_BATCH);
	PROMISE("other", pthread_setschedparam(pthread_self(), SCHED_OTHER, &param) == 0);
	PROMISE("yield", sched_yield() == 0);
	PROMISE("concurrency", pthread_setconcurrency(2) == 0 && pthread_getconcurrency() == 2);
	PROMISE("nice", (errno = 0, getpriority(PRIO_PROCESS, 0) != -1 || errno == 0));
}

static char order[16];

static void before_fork(void)
{
	strcat(order, "b");
}

static void parent_after(void)
{
	strcat(order, "p");
}

static void child_after(void)
{
	strcat(order, "c");
}

static void at_fork(void)
{
	int status = -1;

	NEED(pthread_atfork(before_fork, parent_after, child_after) == 0);
	order[0] = 0;
	if (fork() == 0)
		_exit(strcmp(order, "bc") == 0 ? 3 : 4);
	wait(&status);
	PROMISE("handlers of the parent", strcmp(order, "bp") == 0);
	PROMISE("handlers of the child", WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static __thread int own = 5;

static void *uses_own(void *arg)
{
	int first = own;

	own = (int)(intptr_t)arg;
	pause_ms(5);
	return (void *)(intptr_t)(first == 5 && own == (int)(intptr_t)arg);
}

static void many(void)
{
	pthread_t threads[40];
	int good = 0;

	own = 1;
	for (int i = 0; i < 40; i++)
		threads[i] = start(uses_own, (void *)(intptr_t)(i + 10));
	for (int i = 39; i >= 0; i--)
		good += join(threads[i]) != NULL;
	PROMISE("forty, joined last first, each with its own variables", good == 40 && own == 1);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"creation", creation},
		{"attributes", attributes},
		{"guards", guards},
		{"thread_keys", thread_keys},
		{"cancellation", cancellation},
		{"names", names},
		{"clocks", clocks},
		{"sums_of_clocks", sums_of_clocks},
		{"identity", identity},
		{"scheduling", scheduling},
		{"at_fork", at_fork},
		{"many", many},
	};

	return RUN_TESTS(tests);
}
