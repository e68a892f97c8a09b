// SPDX-License-Identifier: GPL-2.0-or-later
/* C++ threads, exceptions through functions with sites, shared pointers, futures. */
#include <atomic>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

static std::mutex mutex;
static long total;
static std::atomic<int> live{0};

struct Counted {
	Counted() { live++; }
	~Counted() { live--; }
};

static int risky(int i)
{
	Counted counted;
	auto p = std::make_shared<int>(i);
	auto q = p;
	if (i % 3 == 0)
		throw std::runtime_error("three");
	return *q;
}

int main()
{
	std::vector<std::thread> threads;
	std::atomic<int> caught{0};
	for (int t = 0; t < 4; t++)
		threads.emplace_back([&] {
			for (int i = 0; i < 500; i++) {
				try {
					risky(i);
				} catch (const std::exception &) {
					caught++;
				}
				std::lock_guard<std::mutex> lock(mutex);
				total++;
			}
		});
	for (auto &t : threads)
		t.join();
	auto f = std::async(std::launch::async, [] { return risky(3); });
	try {
		f.get();
	} catch (const std::exception &e) {
		std::cout << e.what() << "\n";
	}
	std::cout << total << " " << caught << " " << live << "\n";
}
