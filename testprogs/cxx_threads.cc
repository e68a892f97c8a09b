// SPDX-License-Identifier: GPL-2.0-or-later
/* std::thread, mutex, condition_variable, atomic, call_once, thread_local. */
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common.h"

namespace {

std::mutex lock;
std::condition_variable all_here;
std::atomic<long> total{0};
std::atomic<int> destroyed{0};
std::once_flag flag;
std::map<std::string, int> words;
int arrived, calls;

struct Counted {
	int value = 0;
	~Counted() { destroyed += value; }
};
thread_local Counted counted;

void body(int mine, int threads)
{
	counted.value = mine + 1;
	std::call_once(flag, [] { calls++; });
	{
		std::unique_lock<std::mutex> guard(lock);
		if (++arrived == threads)
			all_here.notify_all();
		all_here.wait(guard, [=] { return arrived == threads; });
	}
	for (int i = 0; i < 30; i++) {
		std::lock_guard<std::mutex> guard(lock);
		words["word" + std::to_string(i % 7)] += mine + 1;
		total += i;
	}
}

} // namespace

int main(int argc, char **argv)
{
	int threads = argument(argc, argv, 1, 4);
	std::vector<std::thread> team;

	for (int i = 0; i < threads; i++)
		team.emplace_back(body, i, threads);
	for (auto &thread : team)
		thread.join();
	printf("cxx_threads: total %ld destroyed %d calls %d", total.load(), destroyed.load(), calls);
	for (const auto &[word, count] : words)
		printf(" %s=%d", word.c_str(), count);
	printf("\n");
	CHECK(calls == 1 && total == 435L * threads);
	CHECK(destroyed == threads * (threads + 1) / 2);
	return 0;
}
