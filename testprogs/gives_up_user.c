// Gives up its user, when it has one to give up, reads a file of /proc, and executes itself.
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long sum;

static void *work(void *unused)
{
	(void)unused;
	for (int i = 0; i < 200; i++) {
		pthread_mutex_lock(&lock);
		sum += i;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("%ld\n", sum);
	fflush(stdout);
	if (count > 1)
		return 0;
	if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
		return 2;
	if (access("/proc/self/status", R_OK) || !fopen("/proc/self/status", "re"))
		perror("status");
	execl("/proc/self/exe", arguments[0], "again", (char *)NULL);
	perror("execl");
	return 1;
}
