// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A fault of a locked instruction becomes an exception, thrown by the signal's
 * handler (-fnon-call-exceptions): destructors run, the right handler catches.
 * The compiler lets no asm throw into its function, so the test turns the store
 * of 12345 into a locked addition in the compiler's output.
 * Maps the page of the armed byte itself, so it also runs without a launcher.
 */
#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <sys/mman.h>

struct Fault : std::runtime_error {
	using std::runtime_error::runtime_error;
};
static int live;
struct Counted {
	Counted() { live++; }
	~Counted() { live--; }
};

static void handler(int)
{
	throw Fault("fault");
}

__attribute__((noinline)) static int bump(volatile int *p, int wanted)
{
	Counted counted;
	try {
		try {
			Counted inner;
			*p = 12345;
			return 0;
		} catch (const std::logic_error &) {
			return 1;
		}
	} catch (const Fault &e) {
		if (wanted == 2)
			throw;
		return 2 + live;
	}
}

int main()
{
	int word = 5;
	struct sigaction action = {};
	mmap((void *)0xe2000, 4096, PROT_READ | PROT_WRITE,
	     MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	action.sa_handler = handler;
	action.sa_flags = SA_NODEFER;
	sigaction(SIGSEGV, &action, nullptr);
	int a = bump(&word, 0), b = bump(nullptr, 0), c = 0;
	try {
		bump(nullptr, 2);
	} catch (const std::exception &e) {
		c = e.what()[0];
	}
	std::printf("%d %d %d %d %d\n", a, b, c, live, word);
}
