// SPDX-License-Identifier: GPL-2.0-or-later
/* Mutexes, conditions, read-write locks, barriers, spin locks, semaphores, once. */
#include "posix.h"

static pthread_mutex_t mutex;
static pthread_cond_t condition;
static pthread_rwlock_t rwlock;
static atomic_int flag, turns;
static int shared_value;

static void init_mutex(int type, int robust, int protocol)
{
	pthread_mutexattr_t attr;

	NEED(pthread_mutexattr_init(&attr) == 0);
	NEED(pthread_mutexattr_settype(&attr, type) == 0);
	NEED(pthread_mutexattr_setrobust(&attr, robust) == 0);
	NEED(pthread_mutexattr_setprotocol(&attr, protocol) == 0);
	NEED(pthread_mutex_init(&mutex, &attr) == 0);
	pthread_mutexattr_destroy(&attr);
}

static void *try_lock(void *arg)
{
	int result = pthread_mutex_trylock(&mutex);

	(void)arg;
	if (result == 0)
		pthread_mutex_unlock(&mutex);
	return (void *)(intptr_t)result;
}

static void *unlock(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)pthread_mutex_unlock(&mutex);
}

static int elsewhere(void *(*body)(void *))
{
	return (int)(intptr_t)join(start(body, NULL));
}

static void *locks_and_sets(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&mutex);
	atomic_store(&flag, 1);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static void *counts(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++) {
		pthread_mutex_lock(&mutex);
		shared_value++;
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static void any_mutex(void)
{
	pthread_t thread;
	struct timespec bad = {0, 2000000000};

	PROMISE("lock", pthread_mutex_lock(&mutex) == 0);
	PROMISE("trylock elsewhere is EBUSY", elsewhere(try_lock) == EBUSY);
	atomic_store(&flag, 0);
	thread = start(locks_and_sets, NULL);
	pause_ms(20);
	PROMISE("a second locker waits", atomic_load(&flag) == 0);
	PROMISE("unlock", pthread_mutex_unlock(&mutex) == 0);
	join(thread);
	PROMISE("the second locker gets it", atomic_load(&flag) == 1);
	PROMISE("trylock elsewhere when free", elsewhere(try_lock) == 0);
	PROMISE("timedlock when free", pthread_mutex_timedlock(&mutex, &bad) == 0);
	pthread_mutex_unlock(&mutex);
	shared_value = 0;
	thread = start(counts, NULL);
	counts(NULL);
	join(thread);
	PROMISE("mutual exclusion", shared_value == 400);
}

static void *timed_lock(void *arg)
{
	struct timespec late = in_ms(CLOCK_REALTIME, 20), bad = {0, 2000000000};
	struct timespec late2 = in_ms(CLOCK_MONOTONIC, 20);
	int64_t before = now_ns(CLOCK_MONOTONIC);

	(void)arg;
	PROMISE("timedlock of a held one is ETIMEDOUT",
		pthread_mutex_timedlock(&mutex, &late) == ETIMEDOUT);
	PROMISE("not before its time", now_ns(CLOCK_MONOTONIC) - before >= 15000000);
	PROMISE("timedlock with a bad time is EINVAL",
		pthread_mutex_timedlock(&mutex, &bad) == EINVAL);
	PROMISE("clocklock is ETIMEDOUT",
		pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &late2) == ETIMEDOUT);
	return NULL;
}

static void timed(void)
{
	pthread_mutex_lock(&mutex);
	join(start(timed_lock, NULL));
	pthread_mutex_unlock(&mutex);
}

static void mutex_normal(void)
{
	init_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	any_mutex();
	timed();
	PROMISE("destroy", pthread_mutex_destroy(&mutex) == 0);
}

static void mutex_errorcheck(void)
{
	init_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	any_mutex();
	timed();
	pthread_mutex_lock(&mutex);
	PROMISE("relock is EDEADLK", pthread_mutex_lock(&mutex) == EDEADLK);
	PROMISE("unlock by another is EPERM", elsewhere(unlock) == EPERM);
	PROMISE("destroy of a locked one is EBUSY", pthread_mutex_destroy(&mutex) == EBUSY);
	pthread_mutex_unlock(&mutex);
	PROMISE("unlock of a free one is EPERM", pthread_mutex_unlock(&mutex) == EPERM);
}

static void mutex_recursive(void)
{
	init_mutex(PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	any_mutex();
	pthread_mutex_lock(&mutex);
	PROMISE("relock", pthread_mutex_lock(&mutex) == 0);
	PROMISE("trylock by the owner", pthread_mutex_trylock(&mutex) == 0);
	pthread_mutex_unlock(&mutex);
	pthread_mutex_unlock(&mutex);
	PROMISE("held until the last unlock", elsewhere(try_lock) == EBUSY);
	pthread_mutex_unlock(&mutex);
	PROMISE("free after the last unlock", elsewhere(try_lock) == 0);
	PROMISE("one unlock too many is EPERM", pthread_mutex_unlock(&mutex) == EPERM);
}

static void *lock_and_die(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)pthread_mutex_lock(&mutex);
}

static void robust_of(int protocol)
{
	pthread_t thread;

	init_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, protocol);
	any_mutex();
	PROMISE("an owner dies", elsewhere(lock_and_die) == 0);
	PROMISE("then lock is EOWNERDEAD", pthread_mutex_lock(&mutex) == EOWNERDEAD);
	PROMISE("consistent", pthread_mutex_consistent(&mutex) == 0);
	PROMISE("unlock", pthread_mutex_unlock(&mutex) == 0);
	any_mutex();
	elsewhere(lock_and_die);
	PROMISE("trylock is EOWNERDEAD", pthread_mutex_trylock(&mutex) == EOWNERDEAD);
	pthread_mutex_unlock(&mutex);
	PROMISE("not made consistent: ENOTRECOVERABLE",
		pthread_mutex_lock(&mutex) == ENOTRECOVERABLE);
	pthread_mutex_destroy(&mutex);
	init_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, protocol);
	pthread_mutex_lock(&mutex);
	thread = start(lock_and_die, NULL);
	pause_ms(20);
	pthread_mutex_unlock(&mutex);
	join(thread);
	PROMISE("an owner that had waited dies", pthread_mutex_lock(&mutex) == EOWNERDEAD);
	PROMISE("consistent of a consistent one is EINVAL",
		pthread_mutex_consistent(&mutex) == 0 &&
		pthread_mutex_consistent(&mutex) == EINVAL);
	pthread_mutex_unlock(&mutex);
}

static void mutex_robust(void)
{
	robust_of(PTHREAD_PRIO_NONE);
}

static void mutex_robust_inherit(void)
{
	robust_of(PTHREAD_PRIO_INHERIT);
}

static void mutex_inherit(void)
{
	init_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT);
	any_mutex();
	timed();
	pthread_mutex_lock(&mutex);
	PROMISE("relock is EDEADLK", pthread_mutex_lock(&mutex) == EDEADLK);
	PROMISE("unlock by another is EPERM", elsewhere(unlock) == EPERM);
	pthread_mutex_unlock(&mutex);
}

static void mutex_attributes(void)
{
	pthread_mutexattr_t attr;
	int value = -1;

	NEED(pthread_mutexattr_init(&attr) == 0);
	PROMISE("default type", pthread_mutexattr_gettype(&attr, &value) == 0 &&
		value == PTHREAD_MUTEX_DEFAULT);
	PROMISE("a bad type is EINVAL", pthread_mutexattr_settype(&attr, 77) == EINVAL);
	PROMISE("a bad protocol is EINVAL", pthread_mutexattr_setprotocol(&attr, 77) == EINVAL);
	PROMISE("a bad robustness is EINVAL", pthread_mutexattr_setrobust(&attr, 77) == EINVAL);
	PROMISE("a bad sharing is EINVAL", pthread_mutexattr_setpshared(&attr, 77) == EINVAL);
	PROMISE("a bad ceiling is EINVAL", pthread_mutexattr_setprioceiling(&attr, 1000) == EINVAL);
	PROMISE("shared", pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0 &&
		pthread_mutexattr_getpshared(&attr, &value) == 0 &&
		value == PTHREAD_PROCESS_SHARED);
	PROMISE("destroy", pthread_mutexattr_destroy(&attr) == 0);
}

static void *waits(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&mutex);
	atomic_fetch_add(&turns, 1);
	while (!shared_value)
		pthread_cond_wait(&condition, &mutex);
	if (shared_value > 0)
		shared_value--;
	atomic_fetch_add(&flag, 1);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static void conditions(void)
{
	pthread_t threads[3];
	pthread_condattr_t attr;
	struct timespec time, bad = {0, -1};
	int64_t before;

	init_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	NEED(pthread_cond_init(&condition, NULL) == 0);
	shared_value = 0;
	atomic_store(&flag, 0);
	atomic_store(&turns, 0);
	for (int i = 0; i < 3; i++)
		threads[i] = start(waits, NULL);
	NEED(reached(&turns, 3));
	pthread_mutex_lock(&mutex);
	PROMISE("waiting lets the mutex go", 1);
	shared_value = 1;
	PROMISE("signal", pthread_cond_signal(&condition) == 0);
	pthread_mutex_unlock(&mutex);
	PROMISE("signal wakes one", reached(&flag, 1));
	pause_ms(20);
	PROMISE("signal with one token wakes no more", atomic_load(&flag) == 1);
	pthread_mutex_lock(&mutex);
	shared_value = -1;
	PROMISE("broadcast", pthread_cond_broadcast(&condition) == 0);
	pthread_mutex_unlock(&mutex);
	PROMISE("broadcast wakes all", reached(&flag, 3));
	for (int i = 0; i < 3; i++)
		join(threads[i]);
	pthread_mutex_lock(&mutex);
	time = in_ms(CLOCK_REALTIME, 20);
	before = now_ns(CLOCK_MONOTONIC);
	PROMISE("timedwait is ETIMEDOUT",
		pthread_cond_timedwait(&condition, &mutex, &time) == ETIMEDOUT);
	PROMISE("not before its time", now_ns(CLOCK_MONOTONIC) - before >= 15000000);
	PROMISE("the mutex is held again", pthread_mutex_lock(&mutex) == EDEADLK);
	PROMISE("a bad time is EINVAL",
		pthread_cond_timedwait(&condition, &mutex, &bad) == EINVAL);
	time = in_ms(CLOCK_MONOTONIC, 20);
	PROMISE("clockwait is ETIMEDOUT",
		pthread_cond_clockwait(&condition, &mutex, CLOCK_MONOTONIC, &time) == ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
	PROMISE("wait without the mutex is EPERM",
		pthread_cond_wait(&condition, &mutex) == EPERM);
	PROMISE("destroy", pthread_cond_destroy(&condition) == 0);
	NEED(pthread_condattr_init(&attr) == 0);
	PROMISE("a bad clock is EINVAL",
		pthread_condattr_setclock(&attr, CLOCK_PROCESS_CPUTIME_ID) == EINVAL);
	PROMISE("a clock", pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
	NEED(pthread_cond_init(&condition, &attr) == 0);
	pthread_mutex_lock(&mutex);
	time = in_ms(CLOCK_MONOTONIC, 20);
	PROMISE("timedwait by the monotonic clock",
		pthread_cond_timedwait(&condition, &mutex, &time) == ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&condition);
}

static void *rw_tries(void *arg)
{
	struct timespec time = in_ms(CLOCK_REALTIME, 20);
	int *results = arg;

	results[0] = pthread_rwlock_tryrdlock(&rwlock);
	if (!results[0])
		pthread_rwlock_unlock(&rwlock);
	results[1] = pthread_rwlock_trywrlock(&rwlock);
	if (!results[1])
		pthread_rwlock_unlock(&rwlock);
	results[2] = pthread_rwlock_timedrdlock(&rwlock, &time);
	if (!results[2])
		pthread_rwlock_unlock(&rwlock);
	time = in_ms(CLOCK_REALTIME, 20);
	results[3] = pthread_rwlock_timedwrlock(&rwlock, &time);
	if (!results[3])
		pthread_rwlock_unlock(&rwlock);
	return NULL;
}

static void *rw_writes(void *arg)
{
	(void)arg;
	pthread_rwlock_wrlock(&rwlock);
	atomic_store(&flag, 1);
	pthread_rwlock_unlock(&rwlock);
	return NULL;
}

static void rwlocks(void)
{
	int results[4];
	pthread_t thread;

	NEED(pthread_rwlock_init(&rwlock, NULL) == 0);
	PROMISE("rdlock", pthread_rwlock_rdlock(&rwlock) == 0);
	join(start(rw_tries, results));
	PROMISE("readers share", results[0] == 0 && results[2] == 0);
	PROMISE("a reader keeps writers out", results[1] == EBUSY);
	PROMISE("timedwrlock is ETIMEDOUT", results[3] == ETIMEDOUT);
	atomic_store(&flag, 0);
	thread = start(rw_writes, NULL);
	pause_ms(20);
	PROMISE("a writer waits", atomic_load(&flag) == 0);
	PROMISE("unlock", pthread_rwlock_unlock(&rwlock) == 0);
	join(thread);
	PROMISE("the writer gets it", atomic_load(&flag) == 1);
	PROMISE("wrlock", pthread_rwlock_wrlock(&rwlock) == 0);
	PROMISE("wrlock again is EDEADLK", pthread_rwlock_wrlock(&rwlock) == EDEADLK);
	PROMISE("rdlock then is EDEADLK", pthread_rwlock_rdlock(&rwlock) == EDEADLK);
	join(start(rw_tries, results));
	PROMISE("a writer keeps all out", results[0] == EBUSY && results[1] == EBUSY &&
		results[2] == ETIMEDOUT && results[3] == ETIMEDOUT);
	pthread_rwlock_unlock(&rwlock);
	join(start(rw_tries, results));
	PROMISE("free again", !results[0] && !results[1] && !results[2] && !results[3]);
	PROMISE("destroy", pthread_rwlock_destroy(&rwlock) == 0);
}

static pthread_barrier_t barrier;
static pthread_spinlock_t spinlock;

static void *meets(void *arg)
{
	intptr_t serial = 0;

	(void)arg;
	for (int i = 0; i < 5; i++)
		serial += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
	return (void *)serial;
}

static void barriers(void)
{
	pthread_t threads[2];
	intptr_t serials;

	PROMISE("a count of 0 is EINVAL", pthread_barrier_init(&barrier, NULL, 0) == EINVAL);
	PROMISE("init", pthread_barrier_init(&barrier, NULL, 3) == 0);
	threads[0] = start(meets, NULL);
	threads[1] = start(meets, NULL);
	serials = (intptr_t)meets(NULL);
	serials += (intptr_t)join(threads[0]);
	serials += (intptr_t)join(threads[1]);
	PROMISE("one serial thread each time", serials == 5);
	PROMISE("destroy", pthread_barrier_destroy(&barrier) == 0);
}

static void *try_spin(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)pthread_spin_trylock(&spinlock);
}

static void spins(void)
{
	NEED(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE) == 0);
	PROMISE("lock", pthread_spin_lock(&spinlock) == 0);
	PROMISE("trylock is EBUSY", elsewhere(try_spin) == EBUSY);
	PROMISE("unlock", pthread_spin_unlock(&spinlock) == 0);
	PROMISE("trylock when free", elsewhere(try_spin) == 0);
	PROMISE("destroy", pthread_spin_destroy(&spinlock) == 0);
}

static sem_t semaphore;
static pthread_t interrupted;

static void nothing(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	(void)context;
}

static void *interrupts(void *arg)
{
	(void)arg;
	while (!atomic_load(&flag)) {
		pthread_kill(interrupted, SIGUSR1);
		pause_ms(5);
	}
	return NULL;
}

static void *posts(void *arg)
{
	(void)arg;
	pause_ms(10);
	sem_post(&semaphore);
	return NULL;
}

static void semaphores(void)
{
	int value = -1;
	struct timespec time, bad = {0, 2000000000};
	pthread_t thread;

	PROMISE("too great a value is EINVAL",
		sem_init(&semaphore, 0, (unsigned)SEM_VALUE_MAX + 1) == -1 && errno == EINVAL);
	PROMISE("init", sem_init(&semaphore, 0, 1) == 0);
	PROMISE("getvalue", sem_getvalue(&semaphore, &value) == 0 && value == 1);
	PROMISE("wait", sem_wait(&semaphore) == 0);
	PROMISE("trywait is EAGAIN", sem_trywait(&semaphore) == -1 && errno == EAGAIN);
	time = in_ms(CLOCK_REALTIME, 20);
	PROMISE("timedwait is ETIMEDOUT",
		sem_timedwait(&semaphore, &time) == -1 && errno == ETIMEDOUT);
	time = in_ms(CLOCK_MONOTONIC, 20);
	PROMISE("clockwait is ETIMEDOUT",
		sem_clockwait(&semaphore, CLOCK_MONOTONIC, &time) == -1 && errno == ETIMEDOUT);
	PROMISE("a bad time is EINVAL", sem_timedwait(&semaphore, &bad) == -1 && errno == EINVAL);
	thread = start(posts, NULL);
	PROMISE("wait until a post", sem_wait(&semaphore) == 0);
	join(thread);
	handle(SIGUSR1, nothing, 0);
	interrupted = pthread_self();
	atomic_store(&flag, 0);
	thread = start(interrupts, NULL);
	PROMISE("a signal makes wait EINTR", sem_wait(&semaphore) == -1 && errno == EINTR);
	atomic_store(&flag, 1);
	join(thread);
	PROMISE("destroy", sem_destroy(&semaphore) == 0);
}

static void named_semaphores(void)
{
	char name[64];
	sem_t *first, *second;

	snprintf(name, sizeof name, "/posix-sync-%d", (int)getpid());
	PROMISE("open of none is ENOENT", sem_open(name, 0) == SEM_FAILED && errno == ENOENT);
	first = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
	PROMISE("create", first != SEM_FAILED);
	PROMISE("create again is EEXIST",
		sem_open(name, O_CREAT | O_EXCL, 0600, 0) == SEM_FAILED && errno == EEXIST);
	second = sem_open(name, 0);
	PROMISE("open is the same one", second == first);
	PROMISE("post", sem_post(second) == 0);
	PROMISE("wait", sem_wait(first) == 0);
	PROMISE("trywait is EAGAIN", sem_trywait(first) == -1 && errno == EAGAIN);
	if (fork() == 0) {
		sem_post(first);
		_exit(0);
	}
	PROMISE("a child's post is seen", sem_wait(first) == 0);
	wait(NULL);
	PROMISE("unlink", sem_unlink(name) == 0);
	PROMISE("unlink again is ENOENT", sem_unlink(name) == -1 && errno == ENOENT);
	PROMISE("close", sem_close(first) == 0);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void count_once(void)
{
	pause_ms(10);
	shared_value++;
}

static void *does_once(void *arg)
{
	(void)arg;
	pthread_once(&once, count_once);
	return (void *)(intptr_t)shared_value;
}

static void only_once(void)
{
	pthread_t threads[2];

	shared_value = 0;
	threads[0] = start(does_once, NULL);
	threads[1] = start(does_once, NULL);
	PROMISE("done when it returns", (intptr_t)does_once(NULL) == 1);
	PROMISE("done for the others too",
		(intptr_t)join(threads[0]) == 1 && (intptr_t)join(threads[1]) == 1);
}

struct shared {
	pthread_mutex_t mutex;
	pthread_cond_t condition;
	pthread_barrier_t barrier;
	pthread_rwlock_t rwlock;
	sem_t semaphore;
	int value;
};

static void between_processes(void)
{
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t mutex_attr;
	pthread_condattr_t cond_attr;
	pthread_barrierattr_t barrier_attr;
	pthread_rwlockattr_t rwlock_attr;
	int status;
	pid_t child;

	NEED(shared != MAP_FAILED);
	pthread_mutexattr_init(&mutex_attr);
	pthread_mutexattr_setpshared(&mutex_attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&mutex_attr, PTHREAD_MUTEX_ROBUST);
	pthread_condattr_init(&cond_attr);
	pthread_condattr_setpshared(&cond_attr, PTHREAD_PROCESS_SHARED);
	pthread_barrierattr_init(&barrier_attr);
	pthread_barrierattr_setpshared(&barrier_attr, PTHREAD_PROCESS_SHARED);
	pthread_rwlockattr_init(&rwlock_attr);
	pthread_rwlockattr_setpshared(&rwlock_attr, PTHREAD_PROCESS_SHARED);
	NEED(pthread_mutex_init(&shared->mutex, &mutex_attr) == 0);
	NEED(pthread_cond_init(&shared->condition, &cond_attr) == 0);
	NEED(pthread_barrier_init(&shared->barrier, &barrier_attr, 2) == 0);
	NEED(pthread_rwlock_init(&shared->rwlock, &rwlock_attr) == 0);
	NEED(sem_init(&shared->semaphore, 1, 0) == 0);
	child = fork();
	if (child == 0) {
		sem_wait(&shared->semaphore);
		for (int i = 0; i < 500; i++) {
			pthread_mutex_lock(&shared->mutex);
			shared->value++;
			pthread_mutex_unlock(&shared->mutex);
		}
		pthread_mutex_lock(&shared->mutex);
		shared->value |= 1 << 20;
		pthread_cond_signal(&shared->condition);
		pthread_mutex_unlock(&shared->mutex);
		pthread_barrier_wait(&shared->barrier);
		pthread_rwlock_rdlock(&shared->rwlock);
		pthread_rwlock_unlock(&shared->rwlock);
		pthread_mutex_lock(&shared->mutex);
		_exit(5);
	}
	PROMISE("sem_post to a child", sem_post(&shared->semaphore) == 0);
	for (int i = 0; i < 500; i++) {
		pthread_mutex_lock(&shared->mutex);
		shared->value++;
		pthread_mutex_unlock(&shared->mutex);
	}
	pthread_mutex_lock(&shared->mutex);
	while (!(shared->value & 1 << 20))
		pthread_cond_wait(&shared->condition, &shared->mutex);
	pthread_mutex_unlock(&shared->mutex);
	PROMISE("a mutex excludes and a condition wakes",
		shared->value == (1 << 20 | 1000));
	pthread_barrier_wait(&shared->barrier);
	PROMISE("a barrier", 1);
	NEED(waitpid(child, &status, 0) == child);
	PROMISE("the child ended well", WIFEXITED(status) && WEXITSTATUS(status) == 5);
	PROMISE("a robust mutex tells of its death",
		pthread_mutex_lock(&shared->mutex) == EOWNERDEAD);
	munmap(shared, sizeof *shared);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"mutex_normal", mutex_normal},
		{"mutex_errorcheck", mutex_errorcheck},
		{"mutex_recursive", mutex_recursive},
		{"mutex_robust", mutex_robust},
		{"mutex_inherit", mutex_inherit},
		{"mutex_robust_inherit", mutex_robust_inherit},
		{"mutex_attributes", mutex_attributes},
		{"conditions", conditions},
		{"rwlocks", rwlocks},
		{"barriers", barriers},
		{"spins", spins},
		{"semaphores", semaphores},
		{"named_semaphores", named_semaphores},
		{"only_once", only_once},
		{"between_processes", between_processes},
	};

	return RUN_TESTS(tests);
}
