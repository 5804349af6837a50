// SPDX-License-Identifier: MIT
// In which order items run, and that each does once: also when clients hang, drop what they have
// queued, or go.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "eventually.h"
#include "worker_pool_fixture.h"

using namespace std::chrono_literals;
using test::Clock;
using test::eventually;
using test::feed;
using test::feed_all;
using test::Gate;
using test::Job;
using test::seconds_since;
using ublk_runner::WorkerPool;

namespace {

TEST(WorkerPool, StartsItemsInOrder) {
  WorkerPool pool;
  std::vector<int> order;
  WorkerPool::Client client(pool, 1);  // one at a time: what starts first is seen first
  std::deque<Job> jobs;
  for (int i = 0; i < 1000; ++i) jobs.emplace_back([&order, i] { order.push_back(i); });
  feed_all(pool, client, jobs);
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(WorkerPool, RunsNothingBeforeFlush) {
  WorkerPool pool;
  WorkerPool::Client client(pool, 4);
  WorkerPool::Feeder feeder(pool);
  std::atomic<bool> ran = false;
  Job job([&] { ran = true; });
  feeder.add(client, job);
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(ran);
  EXPECT_TRUE(client.idle());
  feeder.flush();
  EXPECT_TRUE(eventually([&] { return ran.load(); }));
}

TEST(WorkerPool, WhatWasWrittenBeforeIsSeenByTheItem) {
  WorkerPool pool;
  WorkerPool::Client client(pool, 2);
  WorkerPool::Feeder feeder(pool);
  int value = 0;  // not atomic: TSan holds this against the pool
  std::atomic<int> seen = 0;
  Job job([&] { seen = value; });
  for (int i = 1; i <= 100; ++i) {
    value = i;
    feeder.add(client, job);
    feeder.flush();
    ASSERT_TRUE(eventually([&] { return seen == i && client.idle(); }));
  }
}

TEST(WorkerPool, AClientThatHangsHoldsUpNobodyElse) {
  WorkerPool pool;
  Gate gate;
  std::atomic<int> done = 0;
  WorkerPool::Client hanging(pool, 8);
  WorkerPool::Client other(pool, 4);
  std::deque<Job> stuck;
  std::deque<Job> jobs;
  for (int i = 0; i < 100; ++i) stuck.emplace_back([&] { gate.pass(); });
  for (int i = 0; i < 10'000; ++i) jobs.emplace_back([&] { ++done; });
  feed_all(pool, hanging, stuck);
  feed_all(pool, other, jobs);
  EXPECT_TRUE(eventually([&] { return done == 10'000; }));
  EXPECT_TRUE(eventually([&] { return gate.waiting() == 8; }));
  EXPECT_EQ(pool.statistics().queued, 92u);
  gate.open();
  EXPECT_TRUE(eventually([&] { return hanging.idle() && other.idle(); }));
}

// The pool has learned that the items are short, and then they hang without anything to follow.
TEST(WorkerPool, ItemsThatHangForTheFirstTimeDontHoldUpWhatWaitsBehindThem) {
  WorkerPool pool;
  Gate gate;
  std::atomic<int> done = 0;
  WorkerPool::Client client(pool, 16);
  std::deque<Job> jobs;
  for (int i = 0; i < 1000; ++i) jobs.emplace_back([&] { ++done; });
  feed_all(pool, client, jobs);
  ASSERT_TRUE(eventually([&] { return client.idle(); }));

  std::deque<Job> mixed;
  for (int i = 0; i < 15; ++i) mixed.emplace_back([&] { gate.pass(); });
  mixed.emplace_back([&] { ++done; });
  feed_all(pool, client, mixed);
  const auto start = Clock::now();
  EXPECT_TRUE(eventually([&] { return done == 1001; }));
  std::printf("15 unexpected hangs passed in %.2f ms\n", 1e3 * seconds_since(start));
  gate.open();
  EXPECT_TRUE(eventually([&] { return client.idle(); }));
}

TEST(WorkerPool, TakesTurnsBetweenClients) {
  Gate gate;
  std::mutex mutex;
  std::string order;
  const auto note = [&](char name) {
    return [&mutex, &order, name] {
      const std::lock_guard lock(mutex);
      order += name;
    };
  };
  // One thread, held at the gate until both clients have queued all.
  WorkerPool single({.max_threads = 1});
  WorkerPool::Client a(single, 4);
  WorkerPool::Client b(single, 4);
  std::deque<Job> as;
  std::deque<Job> bs;
  as.emplace_back([&] { gate.pass(); });
  for (int i = 0; i < 50; ++i) as.emplace_back(note('a'));
  for (int i = 0; i < 50; ++i) bs.emplace_back(note('b'));
  feed_all(single, a, as);
  feed_all(single, b, bs);
  gate.open();
  ASSERT_TRUE(eventually([&] { return a.idle() && b.idle(); }));
  ASSERT_EQ(order.size(), 100u);
  for (size_t i = 0; i + 1 < order.size(); ++i) ASSERT_NE(order[i], order[i + 1]) << order;
}

TEST(WorkerPool, DropGivesBackWhatHasNotStartedInOrder) {
  WorkerPool pool;
  Gate gate;
  std::atomic<int> ran = 0;
  WorkerPool::Client client(pool, 2);
  WorkerPool::Client other(pool, 2);
  std::deque<Job> jobs;
  for (int i = 0; i < 10; ++i)
    jobs.emplace_back([&] {
      gate.pass();
      ++ran;
    });
  feed_all(pool, client, jobs);
  ASSERT_TRUE(eventually([&] { return gate.waiting() == 2; }));
  WorkerPool::ItemList dropped = client.drop_queued();
  EXPECT_FALSE(client.idle()) << "two are running";
  EXPECT_EQ(pool.statistics().queued, 0u);
  for (size_t i = 2; i < jobs.size(); ++i) EXPECT_EQ(dropped.pop(), &jobs[i]);
  EXPECT_EQ(dropped.pop(), nullptr);
  EXPECT_TRUE(client.drop_queued().empty());
  gate.open();
  EXPECT_TRUE(eventually([&] { return client.idle(); }));
  EXPECT_EQ(ran, 2);

  // They can be queued again, even for another client.
  feed(pool, [&](auto& feeder) {
    for (size_t i = 2; i < jobs.size(); ++i) feeder.add(other, jobs[i]);
  });
  EXPECT_TRUE(eventually([&] { return ran == 10; }));
}

// A request is completed by its item, and whoever waits for that may destroy the client at once.
TEST(WorkerPool, ClientWaitsForAnItemThatHasDoneItsWorkAndNotReturned) {
  WorkerPool pool;
  for (int i = 0; i < 200; ++i) {
    auto client = std::make_unique<WorkerPool::Client>(pool, 2);
    std::atomic<bool> done = false;
    std::atomic<bool> returning = false;
    Job job([&] {
      done = true;
      std::this_thread::sleep_for(100us);
      returning = true;
    });
    feed(pool, [&](auto& feeder) { feeder.add(*client, job); });
    ASSERT_TRUE(eventually([&] { return done.load(); }, 20s, std::this_thread::yield)) << i;
    client.reset();
    ASSERT_TRUE(returning);
  }
}

TEST(WorkerPool, AnItemMayQueueItselfAgain) {
  WorkerPool pool;
  WorkerPool::Client client(pool, 3);
  std::atomic<int> rounds = 0;
  Job job([] {});
  job.function = [&] {
    if (++rounds < 1000) feed(pool, [&](auto& feeder) { feeder.add(client, job); });
  };
  feed(pool, [&](auto& feeder) { feeder.add(client, job); });
  EXPECT_TRUE(eventually([&] { return rounds == 1000 && client.idle(); }));
}

}  // namespace
