// SPDX-License-Identifier: GPL-2.0-or-later
/* async, promise, packaged_task and shared_future, one of them broken by an exception. */
#include <future>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common.h"

namespace {

long triangle(long n)
{
	long sum = 0;

	for (long i = 1; i <= n; i++)
		sum += i;
	if (n == 13)
		throw std::domain_error("unlucky");
	return sum;
}

} // namespace

int main(int argc, char **argv)
{
	int tasks = argument(argc, argv, 1, 6);
	std::vector<std::future<long>> results;
	std::promise<long> start;
	std::shared_future<long> started = start.get_future().share();
	long sum = 0;

	for (int i = 0; i < tasks; i++)
		results.push_back(std::async(std::launch::async, [=] {
			return started.get() * triangle(1000 + i);
		}));
	std::packaged_task<long(long)> task(triangle);
	std::future<long> unlucky = task.get_future();
	std::thread thread(std::move(task), 13);
	start.set_value(3);
	for (auto &result : results)
		sum += result.get();
	try {
		unlucky.get();
		CHECK(!"not thrown");
	} catch (const std::domain_error &error) {
		printf("cxx_futures: sum %ld, %s\n", sum, error.what());
	}
	thread.join();
	return 0;
}
