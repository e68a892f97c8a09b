// SPDX-License-Identifier: GPL-2.0-or-later
/* Processes: fork, wait, spawn, exec, and what children and parents share. */
#include "posix.h"
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

static atomic_int flag;
static int value = 1;

static void exits(void)
{
	_exit(17);
}

static void is_killed(void)
{
	raise(SIGKILL);
}

static void ends_threads(void)
{
	start((void *(*)(void *))exits, NULL);
	for (;;)
		pause();
}

static void forks(void)
{
	int status = status_of(exits), ends[2];
	char bytes[8] = "";
	pid_t child;

	PROMISE("exit status", WIFEXITED(status) && WEXITSTATUS(status) == 17);
	PROMISE("signal", killed_by(status_of(is_killed), SIGKILL));
	status = status_of(ends_threads);
	PROMISE("the exit of any thread", WIFEXITED(status) && WEXITSTATUS(status) == 17);
	value = 5;
	NEED(pipe(ends) == 0);
	child = fork();
	if (child == 0) {
		int good = value == 5;

		value = 6;
		close(ends[0]);
		NEED(write(ends[1], "child", 6) == 6);
		_exit(good);
	}
	close(ends[1]);
	PROMISE("a pipe", read(ends[0], bytes, 6) == 6 && strcmp(bytes, "child") == 0);
	PROMISE("its end when the child ends", read(ends[0], bytes, 1) == 0);
	close(ends[0]);
	PROMISE("waitpid", waitpid(child, &status, 0) == child);
	PROMISE("a copy of memory", WIFEXITED(status) && WEXITSTATUS(status) == 1 && value == 5);
	PROMISE("no more children is ECHILD", waitpid(-1, &status, 0) == -1 && errno == ECHILD);
}

static void waits(void)
{
	int status;
	siginfo_t info;
	struct rusage usage;
	pid_t child = fork();

	if (child == 0)
		for (;;)
			pause();
	PROMISE("WNOHANG", waitpid(child, &status, WNOHANG) == 0);
	kill(child, SIGSTOP);
	PROMISE("WUNTRACED", waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) &&
		WSTOPSIG(status) == SIGSTOP);
	kill(child, SIGCONT);
	PROMISE("WCONTINUED", waitpid(child, &status, WCONTINUED) == child &&
		WIFCONTINUED(status));
	kill(child, SIGTERM);
	PROMISE("waitid leaves it with WNOWAIT",
		waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0 &&
		info.si_pid == child && info.si_code == CLD_KILLED && info.si_status == SIGTERM);
	PROMISE("wait4 and its usage", wait4(child, &status, 0, &usage) == child &&
		killed_by(status, SIGTERM));
	PROMISE("a bad option is EINVAL", waitpid(-1, &status, 0x7777777) == -1 &&
		errno == EINVAL);
}

static void *adds(void *arg)
{
	(void)arg;
	for (int i = 0; i < 1000; i++)
		atomic_fetch_add(&flag, 1);
	return NULL;
}

static void makes_threads(void)
{
	pthread_t threads[4];

	atomic_store(&flag, 0);
	for (int i = 0; i < 4; i++)
		threads[i] = start(adds, NULL);
	for (int i = 0; i < 4; i++)
		join(threads[i]);
	_exit(atomic_load(&flag) == 4000 ? 21 : 22);
}

static void grandchild(void)
{
	int status = status_of(exits);

	_exit(WIFEXITED(status) && WEXITSTATUS(status) == 17 ? 23 : 24);
}

static void handles_signals(void)
{
	sigset_t set = set_of(SIGUSR1);
	int number;

	mask(SIG_BLOCK, SIGUSR1);
	kill(getpid(), SIGUSR1);
	sigwait(&set, &number);
	_exit(number == SIGUSR1 ? 25 : 26);
}

static void executes(void)
{
	execl("/bin/sh", "sh", "-c", "exit 27", NULL);
	_exit(99);
}

static void *executes_in_thread(void *arg)
{
	(void)arg;
	execl("/bin/sh", "sh", "-c", "test $$ = \"$DSM_PARENT\" && exit 28; exit 29", NULL);
	_exit(99);
}

static void thread_executes(void)
{
	char pid[32];

	snprintf(pid, sizeof pid, "%d", (int)getpid());
	setenv("DSM_PARENT", pid, 1);
	join(start(executes_in_thread, NULL));
}

static void children_do(void)
{
	PROMISE("threads", WEXITSTATUS(status_of(makes_threads)) == 21);
	PROMISE("children", WEXITSTATUS(status_of(grandchild)) == 23);
	PROMISE("signals", WEXITSTATUS(status_of(handles_signals)) == 25);
	PROMISE("exec", WEXITSTATUS(status_of(executes)) == 27);
	PROMISE("exec of a thread, with the same process id",
		WEXITSTATUS(status_of(thread_executes)) == 28);
}

static void *works(void *arg)
{
	(void)arg;
	while (atomic_load(&flag) >= 0)
		value++;
	return NULL;
}

static void amid_threads(void)
{
	pthread_t threads[2];
	int good = 1;

	atomic_store(&flag, 0);
	for (int i = 0; i < 2; i++)
		threads[i] = start(works, NULL);
	for (int i = 0; i < 5; i++) {
		int status = status_of(exits);

		good &= WIFEXITED(status) && WEXITSTATUS(status) == 17;
	}
	atomic_store(&flag, -1);
	for (int i = 0; i < 2; i++)
		join(threads[i]);
	PROMISE("forks while others compute", good);
}

static void spawns(void)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t set = set_of(SIGTERM);
	char *argv[] = {"sh", "-c", "read word && test \"$word\" = hello && exit 31", NULL};
	char *missing[] = {"no-such-program", NULL};
	int ends[2], status, result;
	pid_t child;

	NEED(pipe(ends) == 0);
	NEED(write(ends[1], "hello\n", 6) == 6);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&attr, &set);
	PROMISE("posix_spawn", posix_spawn(&child, "/bin/sh", &actions, &attr, argv, environ) == 0);
	PROMISE("with its descriptors", waitpid(child, &status, 0) == child &&
		WIFEXITED(status) && WEXITSTATUS(status) == 31);
	result = posix_spawnp(&child, "no-such-program-at-all", NULL, NULL, missing, environ);
	PROMISE("of none is ENOENT", result == ENOENT);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	close(ends[0]);
	close(ends[1]);
}

static void vforks(void)
{
	int status;
	pid_t child = vfork();

	if (child == 0)
		_exit(33);
	PROMISE("the parent goes on after the child", child > 0 &&
		waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 33);
	child = vfork();
	if (child == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	PROMISE("or when it executes", waitpid(child, &status, 0) == child && status == 0);
}

static void shells(void)
{
	char line[64] = "";
	FILE *file;

	PROMISE("system", WEXITSTATUS(system("exit 35")) == 35);
	PROMISE("system of nothing asks for a shell", system(NULL) != 0);
	file = popen("echo from the shell; exit 3", "r");
	PROMISE("popen to read", file && fgets(line, sizeof line, file) &&
		strcmp(line, "from the shell\n") == 0);
	PROMISE("pclose", WEXITSTATUS(pclose(file)) == 3);
	file = popen("read line; test \"$line\" = hello", "w");
	PROMISE("popen to write", file && fputs("hello\n", file) >= 0 && pclose(file) == 0);
}

static void groups(void)
{
	int status, ends[2];
	char byte;
	pid_t child;

	NEED(pipe(ends) == 0);
	child = fork();
	if (child == 0) {
		int good = setpgid(0, 0) == 0 && getpgrp() == getpid();

		NEED(write(ends[1], "x", 1) == 1);
		if (!good)
			_exit(1);
		for (;;)
			pause();
	}
	NEED(read(ends[0], &byte, 1) == 1);
	PROMISE("a group of its own", getpgid(child) == child);
	PROMISE("killpg", killpg(child, SIGTERM) == 0);
	PROMISE("reaches it", waitpid(-child, &status, 0) == child && killed_by(status, SIGTERM));
	child = fork();
	if (child == 0)
		_exit(setsid() == getpid() && getsid(0) == getpid() ? 41 : 42);
	PROMISE("setsid", waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 41);
	close(ends[0]);
	close(ends[1]);
}

static void limits(void)
{
	struct rlimit limit, changed;

	PROMISE("getrlimit", getrlimit(RLIMIT_NOFILE, &limit) == 0);
	changed = limit;
	changed.rlim_cur = 64;
	PROMISE("setrlimit", setrlimit(RLIMIT_NOFILE, &changed) == 0);
	PROMISE("holds", dup2(0, 100) == -1 && errno == EBADF);
	setrlimit(RLIMIT_NOFILE, &limit);
	PROMISE("more than the most is EINVAL", (changed.rlim_cur = 10, changed.rlim_max = 5,
		setrlimit(RLIMIT_NOFILE, &changed)) == -1 && errno == EINVAL);
	PROMISE("the stack's", getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur > 0);
}

static void orphans(void)
{
	int ends[2];
	pid_t child;
	char byte = 0;

	NEED(pipe(ends) == 0);
	child = fork();
	if (child == 0) {
		if (fork() == 0) {
			close(ends[0]);
			while (getppid() == child)
				pause_ms(1);
			pause_ms(20);
			NEED(write(ends[1], "o", 1) == 1);
			_exit(0);
		}
		_exit(0);
	}
	close(ends[1]);
	NEED(waitpid(child, NULL, 0) == child);
	PROMISE("a grandchild outlives its parent", read(ends[0], &byte, 1) == 1 && byte == 'o');
	close(ends[0]);
}

static void *forks_here(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)status_of(makes_threads);
}

static void at_once(void)
{
	pthread_t threads[3];
	int good = 1;

	for (int i = 0; i < 3; i++)
		threads[i] = start(forks_here, NULL);
	for (int i = 0; i < 3; i++)
		good &= WEXITSTATUS((int)(intptr_t)join(threads[i])) == 21;
	PROMISE("three threads fork at once", good);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"forks", forks},
		{"waits", waits},
		{"children_do", children_do},
		{"amid_threads", amid_threads},
		{"spawns", spawns},
		{"vforks", vforks},
		{"shells", shells},
		{"groups", groups},
		{"limits", limits},
		{"orphans", orphans},
		{"at_once", at_once},
	};

	return RUN_TESTS(tests);
}
