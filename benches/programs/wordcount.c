// SPDX-License-Identifier: GPL-2.0-or-later
/* wordcount THREADS MEBIBYTES: how often each word is in a text; tables are merged at the end. */
#include "bench.h"

enum { SLOTS = 1 << 16, WORDS = 20000 };
typedef struct { uint64_t word; long count; } Slot;
static char *text;
static long length;
static Slot *tables[THREADS_MAX];
static Slot all[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void add(Slot *table, uint64_t word, long count)
{
	for (unsigned at = (word * 0x9e3779b97f4a7c15ULL) >> 48;; at = (at + 1) % SLOTS) {
		if (table[at].word == 0)
			table[at].word = word;
		if (table[at].word == word) {
			table[at].count += count;
			return;
		}
	}
}

static void *body(void *argument)
{
	int index = pointer_as_index(argument);
	long at = length * index / threads, end = length * (index + 1) / threads;
	Slot *table = tables[index] = calloc(SLOTS, sizeof *table);

	CHECK(table);
	while (at > 0 && at < end && text[at - 1] != ' ')
		at++;
	while (at < end) {
		uint64_t word = 14695981039346656037ULL;

		for (; text[at] != ' '; at++)
			word = (word ^ (unsigned char)text[at]) * 1099511628211ULL;
		at++;
		add(table, word, 1);
	}
	pthread_mutex_lock(&lock);
	for (int slot = 0; slot < SLOTS; slot++)
		if (table[slot].count)
			add(all, table[slot].word, table[slot].count);
	pthread_mutex_unlock(&lock);
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL, sum = 0;
	double took_s;

	parse_threads(argc, argv);
	length = argument(argc, argv, 2, 128) * (1L << 20);
	CHECK((text = malloc(length)));
	for (long at = 0; at < length;) {
		uint64_t r = next_bits(&random);
		unsigned word = (r & 0xffff) * (r >> 16 & 0xffff) % WORDS + 1;
		for (; word && at < length; word /= 26)
			text[at++] = 'a' + word % 26;
		if (at < length)
			text[at++] = ' ';
	}
	text[length - 1] = ' ';
	took_s = team_s(body);
	for (int slot = 0; slot < SLOTS; slot++)
		sum += all[slot].word * all[slot].count;
	printf("%.6f %016lx\n", took_s, (unsigned long)sum);
	return 0;
}
