// SPDX-License-Identifier: GPL-2.0-or-later
/* The machine and the process as a program sees them. */
#include "posix.h"
#include <cpuid.h>
#include <dirent.h>
#include <ctype.h>

static char text[1 << 20];
static atomic_int flag;

static const char *contents(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t length = 0, more;

	NEED(fd >= 0);
	while ((more = read(fd, text + length, sizeof text - 1 - (size_t)length)) > 0)
		length += more;
	close(fd);
	text[length] = 0;
	return text;
}

static int lines_with(const char *start)
{
	int count = 0;
	size_t length = strlen(start);

	for (const char *at = text; at; at = strchr(at, '\n')) {
		at += *at == '\n';
		count += strncmp(at, start, length) == 0;
		if (!*at)
			break;
	}
	return count;
}

static int cpus_listed(const char *path)
{
	const char *at = contents(path);
	int count = 0;

	while (isdigit((unsigned char)*at)) {
		char *end;
		long low = strtol(at, &end, 10), high = low;

		if (*end == '-')
			high = strtol(end + 1, &end, 10);
		count += (int)(high - low + 1);
		at = *end == ',' ? end + 1 : end;
	}
	return count;
}

static int entries(const char *path, int digits_only, const char *prefix)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int count = 0;

	NEED(dir);
	while ((entry = readdir(dir))) {
		const char *name = entry->d_name;

		if (strncmp(name, prefix, strlen(prefix)) != 0)
			continue;
		name += strlen(prefix);
		count += digits_only ? isdigit((unsigned char)*name) != 0 : *name != '.';
	}
	closedir(dir);
	return count;
}

static void processors(void)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;
	int stat_lines = 0;
	unsigned cpu = 0, node = 0;

	CPU_ZERO(&set);
	PROMISE("sched_getaffinity", sched_getaffinity(0, sizeof set, &set) == 0);
	PROMISE("as many as sysconf says", CPU_COUNT(&set) == online);
	PROMISE("pthread_getaffinity_np too",
		pthread_getaffinity_np(pthread_self(), sizeof set, &set) == 0 &&
		CPU_COUNT(&set) == online);
	PROMISE("configured are no fewer", sysconf(_SC_NPROCESSORS_CONF) >= online);
	PROMISE("/sys/devices/system/cpu/online",
		cpus_listed("/sys/devices/system/cpu/online") == online);
	PROMISE("/sys/devices/system/cpu/possible",
		cpus_listed("/sys/devices/system/cpu/possible") >= online);
	PROMISE("a folder for each", entries("/sys/devices/system/cpu", 1, "cpu") >= online);
	contents("/proc/cpuinfo");
	PROMISE("/proc/cpuinfo", lines_with("processor\t") == online);
	contents("/proc/stat");
	for (int i = 0; i < 4096; i++) {
		char start[32];

		snprintf(start, sizeof start, "cpu%d ", i);
		stat_lines += lines_with(start);
	}
	PROMISE("/proc/stat", stat_lines == online);
	PROMISE("getcpu", syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu < online);
}

static int moves_to_each(void)
{
	cpu_set_t all, one;
	int good = 1;

	NEED(sched_getaffinity(0, sizeof all, &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		good &= pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0;
		good &= sched_getcpu() == cpu;
		CPU_ZERO(&one);
		good &= sched_getaffinity(0, sizeof one, &one) == 0 && CPU_COUNT(&one) == 1 &&
			CPU_ISSET(cpu, &one);
	}
	good &= sched_setaffinity(0, sizeof all, &all) == 0;
	return good;
}

static volatile unsigned long turns;

static void *computes(void *arg)
{
	atomic_int *stop = arg;

	atomic_store(&flag, 1);
	while (!atomic_load_explicit(stop, memory_order_relaxed))
		turns++;
	return (void *)(intptr_t)sched_getcpu();
}

static void *tells_cpu(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)sched_getcpu();
}

static void affinity(void)
{
	cpu_set_t all, one;
	static atomic_int stop;
	pthread_t thread;
	pthread_attr_t attr;
	int last = 0, good = 1;

	NEED(sched_getaffinity(0, sizeof all, &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all))
			last = cpu;
	PROMISE("a thread moves itself to each processor", moves_to_each());
	CPU_ZERO(&one);
	PROMISE("no processor is EINVAL",
		sched_setaffinity(0, sizeof one, &one) == -1 && errno == EINVAL);
	PROMISE("of no thread is ESRCH",
		sched_getaffinity(0x3fffffff, sizeof one, &one) == -1 && errno == ESRCH);
	PROMISE("too little room is EINVAL",
		syscall(SYS_sched_getaffinity, 0, 1, &one) == -1 && errno == EINVAL);
	for (int i = 0; i < 2; i++) {
		int cpu = i ? last : sched_getcpu();

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		atomic_store(&flag, 0);
		atomic_store(&stop, 0);
		thread = start(computes, &stop);
		NEED(reached(&flag, 1));
		good &= pthread_setaffinity_np(thread, sizeof one, &one) == 0;
		atomic_store(&stop, 1);
		good &= (int)(intptr_t)join(thread) == cpu;
	}
	PROMISE("a running thread is moved", good);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof one, &one);
	NEED(pthread_create(&thread, &attr, tells_cpu, NULL) == 0);
	PROMISE("a thread is made where it is to be", (int)(intptr_t)join(thread) == last);
	sched_setaffinity(0, sizeof one, &one);
	thread = start(tells_cpu, NULL);
	PROMISE("a thread inherits it", (int)(intptr_t)join(thread) == last);
	sched_setaffinity(0, sizeof all, &all);
}

static void features(void)
{
	unsigned a, b, c = 0, d = 0, info_aes, has_aes;

	PROMISE("cpuid", __get_cpuid(1, &a, &b, &c, &d) && d & bit_SSE2);
	contents("/proc/cpuinfo");
	info_aes = strstr(text, " aes ") != NULL;
	has_aes = (c & bit_AES) != 0;
	PROMISE("cpuid and /proc/cpuinfo agree", info_aes == has_aes);
	PROMISE("what cpuid shows works", !!__builtin_cpu_supports("sse2"));
}

static const char *field(const char *name)
{
	const char *at = strstr(contents("/proc/self/status"), name);

	return at ? at + strlen(name) : "";
}

static void *lives(void *arg)
{
	(void)arg;
	atomic_fetch_add(&flag, 1);
	reached(&flag, 100);
	return NULL;
}

static void process(void)
{
	char path[4096], own[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	pthread_t threads[2];
	int before, there, foreign = 0;
	char *end;

	NEED(length > 0);
	path[length] = 0;
	NEED(realpath(program_invocation_name, own));
	PROMISE("/proc/self/exe is the program", strcmp(path, own) == 0);
	PROMISE("TracerPid is 0", atoi(field("TracerPid:\t")) == 0);
	PROMISE("its name", strncmp(field("Name:\t"), "machine", 7) == 0 ||
		strncmp(field("Name:\t"), program_invocation_short_name, 5) == 0);
	PROMISE("Pid", atoi(field("Pid:\t")) == getpid());
	PROMISE("Seccomp is 0", atoi(field("Seccomp:\t")) == 0);
	PROMISE("this thread is running",
		strstr(contents("/proc/thread-self/status"), "State:\tR") != NULL);
	PROMISE("and so says its stat", strstr(contents("/proc/thread-self/stat"), ") R ") != NULL);
	PROMISE("it is not traced", strstr(contents("/proc/thread-self/status"),
		"TracerPid:\t0\n") != NULL);
	before = entries("/proc/self/task", 1, "");
	there = atoi(field("Threads:\t"));
	PROMISE("Threads are those of /proc/self/task", there == before);
	atomic_store(&flag, 0);
	for (int i = 0; i < 2; i++)
		threads[i] = start(lives, NULL);
	NEED(reached(&flag, 2));
	PROMISE("two more are two more", atoi(field("Threads:\t")) == before + 2 &&
		entries("/proc/self/task", 1, "") == before + 2);
	atomic_store(&flag, 100);
	for (int i = 0; i < 2; i++)
		join(threads[i]);
	for (int fd = 0; fd < 1024; fd++) {
		snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
		length = readlink(own, path, sizeof path - 1);
		path[length > 0 ? length : 0] = 0;
		foreign += strstr(path, "dsmsup") != NULL;
	}
	PROMISE("no descriptor of a supervisor's", foreign == 0);
	contents("/proc/self/stat");
	PROMISE("/proc/self/stat has its id", strtol(text, &end, 10) == getpid());
	contents("/proc/self/cmdline");
	PROMISE("/proc/self/cmdline", strcmp(text, program_invocation_name) == 0);
	PROMISE("a task has a name", strlen(contents("/proc/self/comm")) > 1);
}

/* What a process, made by fork, is told of itself and of the machine; 0 when all is well. */
static int child(int all)
{
	cpu_set_t one;
	int wrong = 0;

	wrong |= atoi(field("TracerPid:\t")) != 0;
	wrong |= atoi(field("Seccomp:\t")) != 0 ? 2 : 0;
	wrong |= strstr(contents("/proc/self/status"), "State:\tR") == NULL ? 4 : 0;
	wrong |= strstr(contents("/proc/self/stat"), ") R ") == NULL ? 8 : 0;
	for (int cpu = 0; cpu < all; cpu++) {
		unsigned told = 99, node = 99;

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		wrong |= sched_setaffinity(0, sizeof one, &one) ? 16 : 0;
		wrong |= sched_getcpu() != cpu ? 32 : 0;
		wrong |= syscall(SYS_getcpu, &told, &node, NULL) || told != (unsigned)cpu ? 64 : 0;
		wrong |= atoi(field("Cpus_allowed_list:\t")) != cpu ? 128 : 0;
	}
	return wrong;
}

static int ended_well(pid_t pid)
{
	int status = -1;

	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void children(void)
{
	int all = (int)sysconf(_SC_NPROCESSORS_ONLN);
	char number[16], path[64];
	char *arguments[] = {program_invocation_name, "--child", number, NULL};
	int ends[2], threads;
	pid_t pid = fork();

	if (pid == 0)
		_exit(child(all));
	PROMISE("a forked child", ended_well(pid));
	snprintf(number, sizeof number, "%d", all);
	pid = fork();
	if (pid == 0) {
		execv("/proc/self/exe", arguments);
		_exit(1);
	}
	PROMISE("what it executes", ended_well(pid));
	NEED(pipe(ends) == 0);
	pid = fork();
	if (pid == 0) {
		close(ends[1]);
		_exit(read(ends[0], path, 1) != 0);
	}
	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	PROMISE("its status as its parent reads it",
		strstr(contents(path), "TracerPid:\t0\n") != NULL);
	close(ends[1]);
	NEED(ended_well(pid));
	snprintf(path, sizeof path, "/proc/%d/status", (int)getpid());
	threads = atoi(field("Threads:\t"));
	pid = fork();
	if (pid == 0)
		_exit(strstr(contents(path), "TracerPid:\t0\n") == NULL ||
		      atoi(strstr(text, "Threads:\t") + 9) != threads);
	PROMISE("its parent's as it reads it", ended_well(pid));
}

static void maps(void)
{
	char own[4096];
	int local, heap, stack, known, foreign = 0;
	unsigned long low, high, last = 0;
	char rights[8], name[4096];

	free(malloc(100));
	NEED(realpath(program_invocation_name, own));
	contents("/proc/self/maps");
	heap = strstr(text, "[heap]") != NULL;
	stack = known = 0;
	for (char *at = text; *at; at = strchr(at, '\n') + 1) {
		name[0] = 0;
		if (sscanf(at, "%lx-%lx %7s %*s %*s %*s %4095[^\n]", &low, &high, rights, name) < 3)
			break;
		foreign += low < last || strstr(name, "dsmsup") != NULL;
		last = high;
		if ((uintptr_t)&local >= low && (uintptr_t)&local < high)
			stack = rights[0] == 'r' && rights[1] == 'w';
		if ((uintptr_t)maps >= low && (uintptr_t)maps < high)
			known = strcmp(name, own) == 0 && rights[2] == 'x';
	}
	PROMISE("has the heap", heap);
	PROMISE("the stack, readable and writable", stack);
	PROMISE("the program's code, by its name", known);
	PROMISE("in order, and nothing of a supervisor's", foreign == 0);
	contents("/proc/self/smaps");
	PROMISE("smaps too", strstr(text, own) != NULL && strstr(text, "dsmsup") == NULL);
}

static void environment(void)
{
	PROMISE("no variable of a supervisor's", getenv("DSMSUP_HOSTS") == NULL &&
		getenv("LD_PRELOAD") == NULL);
	PROMISE("hostname", gethostname(text, 100) == 0 && text[0]);
	PROMISE("auxiliary vector", sysconf(_SC_CLK_TCK) == 100);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"processors", processors},
		{"affinity", affinity},
		{"features", features},
		{"process", process},
		{"children", children},
		{"maps", maps},
		{"environment", environment},
	};

	if (argc == 3 && strcmp(argv[1], "--child") == 0)
		return child(atoi(argv[2]));
	return RUN_TESTS(tests);
}
