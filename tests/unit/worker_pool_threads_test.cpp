// SPDX-License-Identifier: MIT
// How many threads a pool has, what they are like, and that it goes on where the system refuses
// more.
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <deque>
#include <map>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "allowed_cpus.h"
#include "eventually.h"
#include "worker_pool_fixture.h"

using namespace std::chrono_literals;
using test::Clock;
using test::eventually;
using test::feed;
using test::feed_all;
using test::Gate;
using test::Job;
using ublk_runner::allowed_cpus;
using ublk_runner::WorkerPool;

namespace {

TEST(WorkerPool, ThreadsAreWhatTheIoPathNeeds) {
  const int own_policy = sched_getscheduler(0);
  WorkerPool pool;
  WorkerPool::Client client(pool, 1);
  char name[16] = "";
  sigset_t blocked;
  int policy = -1;
  Job job([&] {
    policy = sched_getscheduler(0);
    pthread_getname_np(pthread_self(), name, sizeof(name));
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  });
  feed(pool, [&](auto& feeder) { feeder.add(client, job); });
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  EXPECT_STREQ(name, "ublk-work");
  for (const int signal : {SIGTERM, SIGHUP, SIGCHLD, SIGUSR1})
    EXPECT_EQ(sigismember(&blocked, signal), 1) << signal;
  EXPECT_EQ(policy, own_policy == SCHED_OTHER ? SCHED_BATCH : own_policy);
  EXPECT_EQ(sched_getscheduler(0), own_policy);
  // A thread made from here must not have changed this one's mask.
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  EXPECT_EQ(sigismember(&own, SIGTERM), 0);
}

TEST(WorkerPool, APolicyThatWasChosenStays) {
  std::atomic<int> policy = -1;
  bool may_choose = false;
  std::thread([&] {
    const sched_param lowest{.sched_priority = sched_get_priority_min(SCHED_RR)};
    may_choose = sched_setscheduler(0, SCHED_RR, &lowest) == 0;
    if (!may_choose) return;
    WorkerPool pool;  // its threads inherit it
    WorkerPool::Client client(pool, 1);
    Job job([&] { policy = sched_getscheduler(0); });
    feed(pool, [&](auto& feeder) { feeder.add(client, job); });
    EXPECT_TRUE(eventually([&] { return client.idle(); }));
  }).join();
  if (!may_choose) GTEST_SKIP() << "real-time policies need CAP_SYS_NICE";
  EXPECT_EQ(policy, SCHED_RR);
}

TEST(WorkerPool, NeverRunsMoreThanTheLimitAtOnceAndReachesIt) {
  constexpr int kLimit = 5;
  WorkerPool pool;
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  WorkerPool::Client client(pool, kLimit);
  std::deque<Job> jobs;
  for (int i = 0; i < 200; ++i)
    jobs.emplace_back([&] {
      const int now = ++running;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::sleep_for(1ms);
      --running;
    });
  feed_all(pool, client, jobs);
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  EXPECT_EQ(most, kLimit);
  EXPECT_LE(pool.statistics().threads, unsigned{kLimit});
}

TEST(WorkerPool, NeverHasMoreThreadsThanItsBound) {
  WorkerPool pool({.max_threads = 3});
  Gate gate;
  WorkerPool::Client client(pool, 10);
  std::deque<Job> jobs;
  for (int i = 0; i < 10; ++i) jobs.emplace_back([&] { gate.pass(); });
  feed_all(pool, client, jobs);
  EXPECT_TRUE(eventually([&] { return gate.waiting() == 3; }));
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(gate.waiting(), 3);
  EXPECT_EQ(pool.statistics().threads, 3u);
  gate.open();
  EXPECT_TRUE(eventually([&] { return client.idle(); }));
}

TEST(WorkerPool, GrowsToWhatIsNeededAndShrinks) {
  WorkerPool pool({.idle_limit = 50ms});
  EXPECT_EQ(pool.statistics().threads, 0u);
  {
    Gate gate;
    WorkerPool::Client client(pool, 20);
    EXPECT_EQ(pool.statistics().threads, 1u);
    std::deque<Job> jobs;
    for (int i = 0; i < 20; ++i) jobs.emplace_back([&] { gate.pass(); });
    feed_all(pool, client, jobs);
    EXPECT_TRUE(eventually([&] { return gate.waiting() == 20; }));
    EXPECT_EQ(pool.statistics().threads, 20u);
    EXPECT_EQ(pool.statistics().busy, 20u);
    gate.open();
    EXPECT_TRUE(eventually([&] { return client.idle(); }));
    EXPECT_TRUE(eventually([&] { return pool.statistics().threads == 1; }));
    std::this_thread::sleep_for(200ms);
    EXPECT_EQ(pool.statistics().threads, 1u) << "one stays as long as there is a client";
  }
  EXPECT_TRUE(eventually([&] { return pool.statistics().threads == 0; }));
  // And again, with the records of those threads.
  std::atomic<bool> ran = false;
  Job job([&] { ran = true; });
  WorkerPool::Client client(pool, 2);
  feed(pool, [&](auto& feeder) { feeder.add(client, job); });
  EXPECT_TRUE(eventually([&] { return ran.load(); }));
}

// As busy as they are: the CPUs have no more to give.
TEST(WorkerPool, ItemsThatNeedTheCpuGetNoMoreThreadsThanThereAreCpus) {
  WorkerPool pool;
  WorkerPool::Client client(pool, 32);
  const auto compute = [] {
    for (const auto end = Clock::now() + 200us; Clock::now() < end;) {
    }
  };
  std::deque<Job> jobs;
  for (int i = 0; i < 64; ++i) jobs.emplace_back(compute);
  feed_all(pool, client, jobs);  // the pool learns
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  // Each CPU's, the watcher, and those that others on this machine make it take for needed: these
  // come and go, so the quietest round counts.
  uint64_t fewest = UINT64_MAX;
  for (int round = 0; round < 5; ++round) {
    const uint64_t before = pool.statistics().wakeups;
    feed_all(pool, client, jobs);
    ASSERT_TRUE(eventually([&] { return client.idle(); }));
    fewest = std::min(fewest, pool.statistics().wakeups - before);
  }
  EXPECT_LT(fewest, 24u);
}

// They were wanted while the items blocked. Others than there are CPUs for would only take turns.
TEST(WorkerPool, ThreadsThatAreTooManyForShortItemsGo) {
  constexpr int kBlocking = 16;
  constexpr size_t kShort = 40000;
  WorkerPool pool;
  WorkerPool::Client client(pool, kBlocking);
  Gate gate;
  std::deque<Job> jobs;
  for (int i = 0; i < kBlocking; ++i) jobs.emplace_back([&gate] { gate.pass(); });
  feed_all(pool, client, jobs);
  ASSERT_TRUE(eventually([&] { return gate.waiting() == kBlocking; }));

  std::vector<pid_t> threads(kShort);  // that have run each item
  std::deque<Job> short_jobs;
  for (pid_t& thread : threads) short_jobs.emplace_back([&thread] { thread = gettid(); });
  feed_all(pool, client, short_jobs);
  gate.open();
  ASSERT_TRUE(eventually([&] { return client.idle(); }));

  std::map<pid_t, size_t> items;  // of each thread, once the pool has learnt
  for (size_t i = kShort / 2; i < kShort; ++i) ++items[threads[i]];
  std::vector<size_t> most;
  for (const auto& [thread, count] : items) most.push_back(count);
  std::sort(most.rbegin(), most.rend());
  const size_t cpus = std::max(2u, allowed_cpus());
  const size_t of_few =
      std::accumulate(most.begin(), most.begin() + std::min(cpus, most.size()), size_t{0});
  EXPECT_GT(of_few, kShort / 2 * 6 / 10) << "by " << items.size() << " threads in all";
}

// ------------------------------------------------------- threads are refused --

std::atomic<bool> refuse_threads = false;

int start_thread_unless_refused(pthread_t* thread, const pthread_attr_t* attributes,
                                void* (*entry)(void*), void* data) {
  return refuse_threads ? EAGAIN : pthread_create(thread, attributes, entry, data);
}

TEST(WorkerPool, GoesOnWithTheThreadsItHasAndTriesAgain) {
  WorkerPool pool({.start_thread = start_thread_unless_refused});
  Gate gate;
  std::atomic<int> done = 0;
  WorkerPool::Client client(pool, 8);
  refuse_threads = true;
  std::deque<Job> jobs;
  for (int i = 0; i < 50; ++i)
    jobs.emplace_back([&] {
      std::this_thread::sleep_for(1ms);
      ++done;
    });
  feed_all(pool, client, jobs);
  EXPECT_TRUE(eventually([&] { return done == 50 && client.idle(); }));
  EXPECT_EQ(pool.statistics().threads, 1u);
  const uint64_t refused = pool.statistics().threads_refused;
  EXPECT_GE(refused, 1u);
  EXPECT_LE(refused, 25u) << "not at each item";

  refuse_threads = false;
  std::this_thread::sleep_for(120ms);
  std::deque<Job> stuck;
  for (int i = 0; i < 8; ++i) stuck.emplace_back([&] { gate.pass(); });
  feed_all(pool, client, stuck);
  EXPECT_TRUE(eventually([&] { return gate.waiting() == 8; }));
  gate.open();
  EXPECT_TRUE(eventually([&] { return client.idle(); }));
}

TEST(WorkerPool, ClientIsRefusedWithoutAnyThread) {
  WorkerPool pool({.start_thread = start_thread_unless_refused});
  refuse_threads = true;
  try {
    const WorkerPool::Client client(pool, 8);
    ADD_FAILURE() << "no exception";
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EAGAIN);
  }
  refuse_threads = false;
  EXPECT_EQ(pool.statistics().threads, 0u);
  WorkerPool::Client client(pool, 8);
  EXPECT_EQ(pool.statistics().threads, 1u);
}

}  // namespace
