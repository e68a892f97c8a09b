// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads that make threads: a tree, joined from the leaves. */
#include "common.h"

static int width, depth;

struct node {
	int level;
	long seed, result;
};

static void *body(void *argument_pointer)
{
	struct node *node = (struct node *)argument_pointer;
	struct node children[8];
	pthread_t threads[8];

	node->result = node->seed;
	if (node->level == depth)
		return NULL;
	for (int i = 0; i < width; i++) {
		children[i] = (struct node){ node->level + 1, node->seed * 10 + i + 1, 0 };
		CHECK(pthread_create(&threads[i], NULL, body, &children[i]) == 0);
	}
	for (int i = 0; i < width; i++) {
		CHECK(pthread_join(threads[i], NULL) == 0);
		node->result += children[i].result;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct node root = { 0, 1, 0 };

	width = argument(argc, argv, 1, 3);
	depth = argument(argc, argv, 2, 2);
	CHECK(width >= 1 && width <= 8);
	body(&root);
	printf("nested: %ld\n", root.result);
	CHECK(width != 3 || depth != 2 || root.result == 1 + 36 + 1098);
	return 0;
}
