// SPDX-License-Identifier: GPL-2.0-or-later
/* Opens the library named by its argument and calls it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *h = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	if (!h) {
		puts(argc > 1 ? dlerror() : "no argument");
		return 1;
	}
	long (*bump)(long) = (long (*)(long))dlsym(h, "bump");
	Dl_info info;
	printf("%ld %ld %s\n", bump(3), bump(4), dladdr((void *)bump, &info) ? info.dli_sname : "");
	return dlclose(h);
}
