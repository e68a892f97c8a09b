// SPDX-License-Identifier: GPL-2.0-or-later
/* Exceptions thrown and caught in all threads at once, and carried to main. */
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common.h"

namespace {

struct Guard {
	int &unwound;
	~Guard() { unwound++; }
};

int descend(int level, int &unwound)
{
	Guard guard{unwound};

	if (level == 0)
		throw std::out_of_range("bottom");
	return descend(level - 1, unwound) + 1;
}

void body(int mine, int rounds, int &unwound, std::exception_ptr &carried)
{
	for (int i = 0; i < rounds; i++) {
		try {
			descend(5, unwound);
			CHECK(!"not thrown");
		} catch (const std::logic_error &error) {
			CHECK(std::string(error.what()) == "bottom");
		}
	}
	try {
		throw std::runtime_error("from thread " + std::to_string(mine));
	} catch (...) {
		carried = std::current_exception();
	}
}

} // namespace

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4), rounds = argument(argc, argv, 2, 20);
	std::vector<int> unwound(threads);
	std::vector<std::exception_ptr> carried(threads);
	std::vector<std::thread> team;

	for (int i = 0; i < threads; i++)
		team.emplace_back(body, i, rounds, std::ref(unwound[i]), std::ref(carried[i]));
	for (auto &thread : team)
		thread.join();
	for (int i = 0; i < threads; i++) {
		CHECK(unwound[i] == 6 * rounds);
		try {
			std::rethrow_exception(carried[i]);
		} catch (const std::runtime_error &error) {
			printf("cxx_exceptions: %s, unwound %d\n", error.what(), unwound[i]);
		}
	}
	return 0;
}
