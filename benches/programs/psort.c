// SPDX-License-Identifier: GPL-2.0-or-later
/* psort THREADS COUNT/1000: merge sort of 64-bit keys; each thread a part, then each a merge. */
#include "bench.h"

static int count;
static uint64_t *keys, *spare;
static int bounds[THREADS_MAX][THREADS_MAX + 1]; /* [part][target]: where its share begins */

static void merge_sort(uint64_t *data, uint64_t *space, int n)
{
	if (n <= 24) {
		for (int i = 1; i < n; i++) {
			uint64_t key = data[i];
			int j = i;
			for (; j > 0 && data[j - 1] > key; j--)
				data[j] = data[j - 1];
			data[j] = key;
		}
		return;
	}
	merge_sort(data, space, n / 2);
	merge_sort(data + n / 2, space, n - n / 2);
	memcpy(space, data, n / 2 * sizeof *data);
	for (int i = 0, j = n / 2, k = 0; i < n / 2; k++)
		data[k] = j < n && data[j] < space[i] ? data[j++] : space[i++];
}

static int lower_bound(const uint64_t *data, int n, uint64_t key)
{
	int low = 0;

	for (int high = n; low < high;) {
		int middle = (low + high) / 2;
		if (data[middle] < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Keys are uniform, so equal ranges of values are about equal shares. */
static void *body(void *argument)
{
	int index = pointer_as_index(argument), first, end, at[THREADS_MAX], to = 0;

	share(index, count, &first, &end);
	merge_sort(keys + first, spare + first, end - first);
	for (int target = 0; target <= threads; target++)
		bounds[index][target] = target == threads ? end - first :
			lower_bound(keys + first, end - first,
				    target * (UINT64_MAX / threads));
	meet();
	for (int part = 0; part < threads; part++) {
		at[part] = bounds[part][index];
		to += at[part];
	}
	for (;;) {
		int least = -1;
		uint64_t key = 0;

		for (int part = 0; part < threads; part++) {
			int begins, ends;
			if (at[part] >= bounds[part][index + 1])
				continue;
			share(part, count, &begins, &ends);
			if (least < 0 || keys[begins + at[part]] < key) {
				least = part;
				key = keys[begins + at[part]];
			}
		}
		if (least < 0)
			return NULL;
		at[least]++;
		spare[to++] = key;
	}
}

int main(int argc, char **argv)
{
	uint64_t random = 88172645463325252ULL, sum = 0;
	double took_s;

	parse_threads(argc, argv);
	count = argument(argc, argv, 2, 8000) * 1000;
	CHECK((keys = malloc(count * sizeof *keys)) && (spare = malloc(count * sizeof *spare)));
	for (int i = 0; i < count; i++)
		keys[i] = next_bits(&random);
	took_s = team_s(body);
	for (int i = 0; i < count; i++) {
		CHECK(i == 0 || spare[i - 1] <= spare[i]);
		sum += spare[i] * (i % 3 + 1);
	}
	printf("%.6f %016lx\n", took_s, (unsigned long)sum);
	return 0;
}
