// SPDX-License-Identifier: GPL-2.0-or-later
/* Prints its arguments, the variables named DSMTEST_*, and its folder. */
#include "common.h"

extern char **environ;

static void *body(void *unused)
{
	char folder[4096];

	(void)unused;
	for (char **variable = environ; *variable; variable++)
		if (strncmp(*variable, "DSMTEST_", 8) == 0)
			printf("%s\n", *variable);
	CHECK(getcwd(folder, sizeof folder));
	printf("cwd %s\n", folder);
	return NULL;
}

int main(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		printf("argv[%d] <%s>\n", i, argv[i]);
	CHECK(argv[argc] == NULL);
	body(NULL);
	run_threads(1, body); /* the same, seen by another thread */
	return 0;
}
