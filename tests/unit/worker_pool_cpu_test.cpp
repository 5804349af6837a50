// SPDX-License-Identifier: MIT
// On which CPUs items run.
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <deque>
#include <thread>

#include "eventually.h"
#include "worker_pool_fixture.h"

using namespace std::chrono_literals;
using test::eventually;
using test::feed;
using test::Job;
using ublk_runner::WorkerPool;

namespace {

// Runs `job` alone, again and again, until it says that it was bound as wanted.
bool becomes_bound(WorkerPool& pool, WorkerPool::Client& client, Job& job, const cpu_set_t& cpus,
                   const cpu_set_t& wanted) {
  WorkerPool::Feeder feeder(pool);
  return eventually([&] {
    feeder.add(client, job);
    feeder.flush(true);
    EXPECT_TRUE(eventually([&] { return client.idle(); }));
    return CPU_EQUAL(&cpus, &wanted) != 0;
  });
}

TEST(WorkerPool, AFewShortItemsRunOnTheCpuOfWhoQueuesThem) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "there is one CPU";
  WorkerPool pool;
  WorkerPool::Client client(pool, 4);
  cpu_set_t cpus;
  Job job([&] { sched_getaffinity(0, sizeof(cpus), &cpus); });
  std::thread queue_thread([&] {
    int own = 0;
    while (!CPU_ISSET(own, &all)) ++own;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(own, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    EXPECT_TRUE(becomes_bound(pool, client, job, cpus, one));
  });
  queue_thread.join();

  // One that waits is not: it leaves this CPU to others. Nor is one whose queue thread goes on.
  Job waits([&] {
    sched_getaffinity(0, sizeof(cpus), &cpus);
    std::this_thread::sleep_for(1ms);
  });
  EXPECT_TRUE(becomes_bound(pool, client, waits, cpus, all));
  WorkerPool::Client other(pool, 4);
  feed(pool, [&](auto& feeder) { feeder.add(other, job); });
  ASSERT_TRUE(eventually([&] { return other.idle(); }));
  EXPECT_TRUE(CPU_EQUAL(&cpus, &all));
}

// A thread begins with the CPUs of the one that makes it.
TEST(WorkerPool, ThreadsThatABoundOneMakesAreNotBound) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "there is one CPU";
  WorkerPool pool;
  WorkerPool::Client client(pool, 8);
  cpu_set_t of_bound;
  pid_t bound = 0;
  Job looks([&] {
    bound = gettid();
    sched_getaffinity(0, sizeof(of_bound), &of_bound);
  });
  std::array<cpu_set_t, 8> cpus{};
  std::array<pid_t, 8> threads{};
  std::deque<Job> jobs;
  for (size_t i = 0; i < cpus.size(); ++i)
    jobs.emplace_back([&, i] {
      threads[i] = gettid();
      sched_getaffinity(0, sizeof(cpus[i]), &cpus[i]);
      std::this_thread::sleep_for(20ms);
    });
  std::thread queue_thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu)
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    ASSERT_TRUE(becomes_bound(pool, client, looks, of_bound, one));
    WorkerPool::Feeder feeder(pool);
    for (Job& job : jobs) feeder.add(client, job);
    feeder.flush(true);
  });
  queue_thread.join();
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  size_t others = 0;
  for (size_t i = 0; i < cpus.size(); ++i) {
    if (threads[i] == bound) continue;
    ++others;
    EXPECT_TRUE(CPU_EQUAL(&cpus[i], &all));
  }
  EXPECT_GT(others, 0u);
}

}  // namespace
