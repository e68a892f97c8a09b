// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs litmus tests: shapes.h (made by tests/e2e/litmus.py) has the instructions of each
 * thread of each shape, this file everything around them.
 *
 *     litmus ROUNDS BLOCKS SEED [SHAPE...]
 *
 * Four workers stay where they were placed; which of them plays which thread of a shape
 * changes from block to block. A block is ROUNDS rounds of one shape, each round on
 * variables of its own, all of them zero. Within a block nothing but the time-stamp
 * counter keeps the players together: each round has its moment, and each player
 * hesitates a random while after it. A handshake for each round would order the very
 * stores that are to race.
 *
 * A block is laid out in one of three ways (adjacent bytes of one word; two halves of
 * one page; a page for each variable) and begins in one of three states: cold (pages
 * nobody has touched, one or more a round), read (copies everywhere) or written (all
 * players have lately written other bytes of the pages).
 *
 * One line of output for each outcome: shape, processor of each player, layout, state,
 * reads of each thread, final memory, count. A last line for each shape tells in how many
 * rounds all players' instructions overlapped in time.
 */
#include <sys/mman.h>
#include <x86intrin.h>

#include "../common.h"

enum { PLAYERS = 4, READS_MAX = 4, VARIABLES_MAX = 2, ROUNDS_MAX = 4096, OUTCOMES_MAX = 512 };
enum { LINE = 64, LINES = 60, HALF_LINES = 30 };
enum { NEAR = 5000, TURNS = 8, WRITING_MAX = 250000000 }; /* cycles */
enum layout { WORD, PAGE, PAGES, LAYOUTS };
enum state { COLD, READ, WRITTEN, STATES };

typedef void player(char *const *variables, unsigned char *reads);

struct shape {
	const char *name;
	int threads, variables;
	int reads[PLAYERS];
	player *play[PLAYERS];
};

#include "shapes.h"

static const char *const layouts[] = { "word", "page", "pages" };
static const char *const states[] = { "cold", "read", "written" };

/* What a worker saw; nobody else writes here. */
struct seen {
	unsigned char reads[READS_MAX];
	uint64_t begin, end;
};

static _Alignas(PAGE_BYTES) struct seen seen[PLAYERS][ROUNDS_MAX];
static _Alignas(PAGE_BYTES) int cpu_of[PLAYERS];

static _Alignas(PAGE_BYTES) struct {
	const struct shape *shape;
	enum layout layout;
	enum state state;
	int role_of[PLAYERS]; /* by worker; none: -1 */
	char *arena;
	uint64_t start, interval, seed;
} block;
static int rounds;
static pthread_barrier_t gate;

static int rounds_in_a_page(void)
{
	return block.state == COLD ? 1 : block.layout == PAGE ? HALF_LINES : LINES;
}

static int pages_in_block(void)
{
	int each = block.layout == PAGES ? block.shape->variables : 1;

	return (rounds + rounds_in_a_page() - 1) / rounds_in_a_page() * each;
}

static char *variable(int round, int number)
{
	int group = round / rounds_in_a_page();
	int line = round % (block.layout == PAGE ? HALF_LINES : LINES);

	if (block.layout == PAGES)
		return block.arena + (long)(group * block.shape->variables + number) * PAGE_BYTES +
		       line * LINE;
	return block.arena + (long)group * PAGE_BYTES + line * LINE +
	       number * (block.layout == PAGE ? PAGE_BYTES / VARIABLES_MAX : 1);
}

static void wait_until(uint64_t moment)
{
	int64_t left;

	while ((left = (int64_t)(moment - __rdtsc())) > 0)
		if (left > NEAR)
			sched_yield();
}

/*
 * Bytes that no round uses: reading them leaves copies, and writing them by turns
 * shows the hosts a page that each writes a part of. That takes as long as it takes
 * until the first page has changed hands some times; and not for ever.
 */
static void warm_up(int worker)
{
	uint64_t end = __rdtsc() + WRITING_MAX;
	int pages = pages_in_block(), turns = 0, before = 0;

	do {
		volatile unsigned char *last = (unsigned char *)block.arena + PAGE_BYTES;
		int others = 0;

		for (int other = 0; other < PLAYERS; other++)
			if (other != worker)
				others += last[-1 - other];
		turns += others != before;
		before = others;
		for (int page = 0; page < pages && block.state == WRITTEN; page++)
			++last[(long)page * PAGE_BYTES - 1 - worker];
	} while (block.state == WRITTEN && turns < TURNS && (int64_t)(__rdtsc() - end) < 0);
}

static void play(int worker, int role)
{
	uint64_t random = block.seed * PLAYERS + (uint64_t)role;
	player *instructions = block.shape->play[role];

	for (int round = 0; round < rounds; round++) {
		struct seen *mine = &seen[worker][round];
		char *variables[VARIABLES_MAX];
		uint64_t moment = block.start + block.interval * (uint64_t)round;

		for (int i = 0; i < block.shape->variables; i++)
			variables[i] = variable(round, i);
		moment += next_random(&random) % block.interval >> next_random(&random) % 16;
		wait_until(moment);
		mine->begin = __rdtsc();
		instructions(variables, mine->reads);
		mine->end = __rdtsc();
	}
}

static void *work(void *index)
{
	int worker = pointer_as_index(index);

	cpu_of[worker] = sched_getcpu();
	for (int round = 0; round < rounds; round++) /* nothing of ours faults in a block */
		memset(&seen[worker][round], 0, sizeof seen[worker][round]);
	for (;;) {
		int role;

		pthread_barrier_wait(&gate);
		if (!block.shape)
			return NULL;
		role = block.role_of[worker];
		if (role >= 0 && block.state != COLD)
			warm_up(worker);
		pthread_barrier_wait(&gate);
		if (role >= 0)
			play(worker, role);
		pthread_barrier_wait(&gate);
	}
}

/* Outcomes of one block, each as text. */
static struct {
	char text[64];
	int count;
} outcomes[OUTCOMES_MAX];
static int outcome_count;

static void count_outcome(const char *text)
{
	int at = 0;

	while (at < outcome_count && strcmp(outcomes[at].text, text) != 0)
		at++;
	CHECK(at < OUTCOMES_MAX);
	if (at == outcome_count) {
		strcpy(outcomes[outcome_count++].text, text);
		outcomes[at].count = 0;
	}
	outcomes[at].count++;
}

/* The round's outcome is counted; whether its players were at it all at once. */
static int collect(const int *worker_of, int round)
{
	const struct shape *shape = block.shape;
	uint64_t last_begin = 0, first_end = UINT64_MAX;
	char text[64];
	int at = 0;

	for (int role = 0; role < shape->threads; role++) {
		const struct seen *its = &seen[worker_of[role]][round];

		for (int i = 0; i < shape->reads[role]; i++)
			at += sprintf(text + at, "%s%d", i ? "," : "", its->reads[i]);
		at += sprintf(text + at, role + 1 < shape->threads ? ";" : " ");
		if (its->begin > last_begin)
			last_begin = its->begin;
		if (its->end < first_end)
			first_end = its->end;
	}
	for (int i = 0; i < shape->variables; i++)
		at += sprintf(text + at, "%s%d", i ? "," : "",
			      (unsigned char)*(volatile char *)variable(round, i));
	count_outcome(text);
	return last_begin < first_end;
}

static int run_block(uint64_t *random)
{
	const struct shape *shape = block.shape;
	int worker_of[PLAYERS] = { 0, 1, 2, 3 }, overlaps = 0;
	size_t length;

	for (int i = PLAYERS - 1; i > 0; i--) { /* Fisher and Yates */
		int other = (int)(next_random(random) % (uint64_t)(i + 1)), kept = worker_of[i];

		worker_of[i] = worker_of[other];
		worker_of[other] = kept;
	}
	for (int i = 0; i < PLAYERS; i++)
		block.role_of[worker_of[i]] = i < shape->threads ? i : -1;
	length = (size_t)pages_in_block() * PAGE_BYTES;
	block.arena = (char *)mmap(NULL, length, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(block.arena != MAP_FAILED);
	block.interval = 1000ULL << next_random(random) % 14; /* to a few milliseconds */
	block.seed = next_random(random);
	pthread_barrier_wait(&gate);
	block.start = __rdtsc() + 8000000; /* the players are awake by then */
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	outcome_count = 0;
	for (int round = 0; round < rounds; round++)
		overlaps += collect(worker_of, round);
	for (int i = 0; i < outcome_count; i++) {
		printf("%s ", shape->name);
		for (int role = 0; role < shape->threads; role++)
			printf("%s%d", role ? "," : "", cpu_of[worker_of[role]]);
		printf(" %s %s %s %d\n", layouts[block.layout], states[block.state],
		       outcomes[i].text, outcomes[i].count);
	}
	CHECK(munmap(block.arena, length) == 0);
	return overlaps;
}

static int is_wanted(const char *name, int argc, char **argv)
{
	if (argc <= 4)
		return 1;
	for (int i = 4; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	int blocks = argument(argc, argv, 2, LAYOUTS * STATES), seed = argument(argc, argv, 3, 1);
	uint64_t random = (uint64_t)seed;
	pthread_t threads[PLAYERS];

	rounds = argument(argc, argv, 1, 10);
	CHECK(rounds > 0 && rounds <= ROUNDS_MAX);
	CHECK(pthread_barrier_init(&gate, NULL, PLAYERS + 1) == 0);
	for (int i = 0; i < PLAYERS; i++)
		CHECK(pthread_create(&threads[i], NULL, work, index_as_pointer(i)) == 0);
	for (unsigned number = 0; number < sizeof shapes / sizeof *shapes; number++) {
		int overlaps = 0;

		if (!is_wanted(shapes[number].name, argc, argv))
			continue;
		block.shape = &shapes[number];
		for (int i = 0; i < blocks; i++) { /* every layout with every state, by and by */
			unsigned kind = ((unsigned)seed + number) * 4 + (unsigned)i * 4;

			block.layout = (enum layout)(kind % LAYOUTS);
			block.state = (enum state)(kind / LAYOUTS % STATES);
			overlaps += run_block(&random);
		}
		printf("overlap %s %d\n", shapes[number].name, overlaps);
		fflush(stdout);
	}
	block.shape = NULL;
	pthread_barrier_wait(&gate);
	for (int i = 0; i < PLAYERS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return 0;
}
