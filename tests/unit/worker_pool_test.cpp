// SPDX-License-Identifier: MIT
#include "worker_pool.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <deque>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "allowed_cpus.h"
#include "eventually.h"
#include "sanitizers.h"

using namespace std::chrono_literals;
using test::eventually;
using test::kSanitized;
using ublk_runner::allowed_cpus;
using ublk_runner::WorkerPool;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// An item that calls a function.
struct Job : WorkerPool::Item {
  explicit Job(std::function<void()> f) : function(std::move(f)) {
    run = [](WorkerPool::Item& item) noexcept { static_cast<Job&>(item).function(); };
  }
  std::function<void()> function;
};

// A door that items wait at until it is opened.
class Gate {
 public:
  void pass() {
    ++waiting_;
    open_.wait();
  }
  void open() { open_.count_down(); }
  int waiting() const { return waiting_; }

 private:
  std::latch open_{1};
  std::atomic<int> waiting_ = 0;
};

template <class Add>
void feed(WorkerPool& pool, Add add) {
  WorkerPool::Feeder feeder(pool);
  add(feeder);
  feeder.flush();
}

void feed_all(WorkerPool& pool, WorkerPool::Client& client, std::deque<Job>& jobs) {
  feed(pool, [&](WorkerPool::Feeder& feeder) {
    for (Job& job : jobs) feeder.add(client, job);
  });
}

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

TEST(WorkerPool, ThreadsAreWhatTheIoPathNeeds) {
  const int own_policy = sched_getscheduler(0);
  WorkerPool pool;
  WorkerPool::Client client(pool, 1);
  char name[16] = "";
  sigset_t blocked;
  int io_flusher = -1;
  int policy = -1;
  Job job([&] {
    policy = sched_getscheduler(0);
    pthread_getname_np(pthread_self(), name, sizeof(name));
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    io_flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
  });
  feed(pool, [&](auto& feeder) { feeder.add(client, job); });
  ASSERT_TRUE(eventually([&] { return client.idle(); }));
  EXPECT_STREQ(name, "ublk-work");
  for (const int signal : {SIGTERM, SIGHUP, SIGCHLD, SIGUSR1})
    EXPECT_EQ(sigismember(&blocked, signal), 1) << signal;
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) {
    EXPECT_EQ(io_flusher, 1);
    prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
  }
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

// ------------------------------------------------------------ a queue thread --

// A queue thread with `depth` requests in flight, as the runner has it: workers put what is done in
// a lock-free list and write to an eventfd if the thread is asleep.
class QueueThread {
 public:
  QueueThread(WorkerPool& pool, std::vector<WorkerPool::Client*> clients, int depth,
              std::function<void(unsigned)> work)
      : clients_(std::move(clients)), work_(std::move(work)), feeder_(pool) {
    for (int i = 0; i < depth; ++i) requests_.emplace_back(*this);
  }
  ~QueueThread() { close(fd_); }
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;

  // Until the deadline; then lets all requests come to their end.
  void serve(Clock::time_point deadline) {
    for (Request& request : requests_) send(request);
    for (size_t in_flight = requests_.size(); in_flight != 0;) {
      feeder_.flush();
      Request* done = take();
      const bool more = Clock::now() < deadline;
      while (done != nullptr) {
        Request& request = *done;
        done = request.next_done;
        ++count_;
        if (more)
          send(request);
        else
          --in_flight;
      }
    }
  }

  uint64_t count() const { return count_; }

 private:
  struct Request : WorkerPool::Item {
    explicit Request(QueueThread& of) : queue(of) {
      run = [](WorkerPool::Item& item) noexcept {
        auto& self = static_cast<Request&>(item);
        self.queue.work_(self.number);
        self.queue.complete(self);
      };
    }
    QueueThread& queue;
    Request* next_done = nullptr;
    unsigned number = 0;
  };

  void send(Request& request) {
    request.number = next_++;
    feeder_.add(*clients_[request.number % clients_.size()], request);
  }

  void complete(Request& request) {
    Request* head = done_.load(std::memory_order_relaxed);
    do {
      request.next_done = head == asleep() ? nullptr : head;
    } while (!done_.compare_exchange_weak(head, &request, std::memory_order_acq_rel));
    if (head == asleep()) eventfd_write(fd_, 1);
  }

  Request* take() {
    for (;;) {
      Request* done = done_.exchange(nullptr, std::memory_order_acquire);
      if (done != nullptr) return done;
      if (!done_.compare_exchange_strong(done, asleep(), std::memory_order_acq_rel)) continue;
      eventfd_t value;
      eventfd_read(fd_, &value);
    }
  }

  Request* asleep() { return reinterpret_cast<Request*>(this); }

  const std::vector<WorkerPool::Client*> clients_;
  const std::function<void(unsigned)> work_;
  WorkerPool::Feeder feeder_;
  std::deque<Request> requests_;
  std::atomic<Request*> done_ = nullptr;
  const int fd_ = eventfd(0, EFD_CLOEXEC);
  unsigned next_ = 0;
  uint64_t count_ = 0;
};

struct Load {
  double per_second;
  double wakeups;  // an item
  unsigned threads;
};

Load measure(const char* what, unsigned limit, int depth, std::function<void(unsigned)> work) {
  WorkerPool pool;
  WorkerPool::Client client(pool, limit);
  QueueThread queue(pool, {&client}, depth, std::move(work));
  const double cpu = cpu_seconds();
  const auto start = Clock::now();
  queue.serve(start + 500ms);
  const double seconds = seconds_since(start);
  const auto count = static_cast<double>(queue.count());
  const auto statistics = pool.statistics();
  const Load load{count / seconds, static_cast<double>(statistics.wakeups) / count,
                  statistics.threads};
  std::printf("%-40s %9.0f/s  %.3f wake-ups an item  %2u threads  %.2f us CPU an item\n", what,
              load.per_second, load.wakeups, load.threads, 1e6 * (cpu_seconds() - cpu) / count);
  return load;
}

void spin(std::chrono::nanoseconds duration) {
  for (const auto end = Clock::now() + duration; Clock::now() < end;) {
  }
}

TEST(WorkerPoolLoad, ShortItemsWakeFewThreads) {
  measure("trivial, depth 1", 16, 1, [](unsigned) {});
  measure("trivial, depth 4", 16, 4, [](unsigned) {});
  const Load load = measure("trivial, depth 64", 16, 64, [](unsigned) {});
  measure("2 us, depth 64", 16, 64, [](unsigned) { spin(2us); });
  measure("10 us, depth 64", 16, 64, [](unsigned) { spin(10us); });
  if (!kSanitized) {
    EXPECT_LT(load.wakeups, 0.2);
  }
}

TEST(WorkerPoolLoad, BlockingItemsRunAllAtOnce) {
  const Load load = measure("1 ms sleep, limit 32, depth 64", 32, 64,
                            [](unsigned) { std::this_thread::sleep_for(1ms); });
  measure("1 ms sleep, limit 32, depth 32", 32, 32,
          [](unsigned) { std::this_thread::sleep_for(1ms); });
  measure("100 us sleep, limit 32, depth 64", 32, 64,
          [](unsigned) { std::this_thread::sleep_for(100us); });
  EXPECT_EQ(load.threads, 32u);
  if (!kSanitized) {
    EXPECT_GT(load.per_second, 10'000);  // 32 000 at best
  }
}

TEST(WorkerPoolLoad, SomeItemsBlock) {
  const auto one_in = [](unsigned n) {
    return [n](unsigned i) {
      if (i % n == 0) std::this_thread::sleep_for(1ms);
    };
  };
  measure("1 in 4 sleeps 1 ms, limit 32, depth 64", 32, 64, one_in(4));
  const Load load = measure("1 in 20 sleeps 1 ms, limit 32, depth 64", 32, 64, one_in(20));
  measure("1 in 200 sleeps 1 ms, limit 32, depth 64", 32, 64, one_in(200));
  if (!kSanitized) {
    EXPECT_GT(load.per_second, 20'000);  // one thread: 20 000
  }
}

TEST(WorkerPoolLoad, MixedClients) {
  WorkerPool pool;
  WorkerPool::Client blocking(pool, 32);
  WorkerPool::Client trivial(pool, 16);
  QueueThread slow(pool, {&blocking}, 64, [](unsigned) { std::this_thread::sleep_for(1ms); });
  QueueThread fast(pool, {&trivial}, 64, [](unsigned) {});
  const auto start = Clock::now();
  std::thread other([&] { slow.serve(start + 500ms); });
  fast.serve(start + 500ms);
  other.join();
  const double seconds = seconds_since(start);
  std::printf("mixed: 1 ms sleeps %.0f/s and trivial %.0f/s, %.3f wake-ups an item, %u threads\n",
              static_cast<double>(slow.count()) / seconds,
              static_cast<double>(fast.count()) / seconds,
              static_cast<double>(pool.statistics().wakeups) /
                  static_cast<double>(slow.count() + fast.count()),
              pool.statistics().threads);
  if (!kSanitized) {
    EXPECT_GT(static_cast<double>(slow.count()) / seconds, 5'000);
    EXPECT_GT(static_cast<double>(fast.count()) / seconds, 20'000);
  }
}

// Several queue threads feed the same clients, items are short or block, and clients drop what they
// have queued meanwhile. Each item must come to its end exactly once.
TEST(WorkerPoolLoad, ManyFeedersStress) {
  constexpr int kFeeders = 4;
  constexpr int kRounds = kSanitized ? 300 : 1500;
  constexpr int kBatch = 16;
  WorkerPool pool({.max_threads = 12, .idle_limit = 1ms});
  std::deque<WorkerPool::Client> clients;
  for (const unsigned limit : {1u, 3u, 8u}) clients.emplace_back(pool, limit);
  std::atomic<int> ran = 0;
  std::atomic<int> dropped = 0;
  std::atomic<bool> feeding = true;
  std::thread dropper([&] {
    while (feeding) {
      WorkerPool::ItemList list = clients[1].drop_queued();
      while (WorkerPool::Item* item = list.pop()) {
        ++dropped;
        delete static_cast<Job*>(item);
      }
      std::this_thread::sleep_for(300us);
    }
  });
  std::vector<std::thread> feeders;
  feeders.reserve(kFeeders);
  for (int f = 0; f < kFeeders; ++f)
    feeders.emplace_back([&, f] {
      WorkerPool::Feeder feeder(pool);
      unsigned random = static_cast<unsigned>(f) + 1;
      for (int round = 0; round < kRounds; ++round) {
        for (int i = 0; i < kBatch; ++i) {
          random = random * 1664525 + 1013904223;
          const unsigned pick = random >> 24;
          auto* job = new Job([] {});
          job->function = [&ran, job, pick] {
            if (pick < 8) std::this_thread::sleep_for(100us);
            ++ran;
            delete job;
          };
          feeder.add(clients[pick % 3], *job);
        }
        feeder.flush();
        if (round % 50 == 0) std::this_thread::sleep_for(2ms);  // so that threads come and go
      }
    });
  for (auto& feeder : feeders) feeder.join();
  feeding = false;
  dropper.join();
  EXPECT_TRUE(eventually([&] { return ran + dropped == kFeeders * kRounds * kBatch; }, 60s));
  EXPECT_TRUE(eventually([&] {
    return std::all_of(clients.begin(), clients.end(), [](auto& c) { return c.idle(); });
  }));
  const auto statistics = pool.statistics();
  EXPECT_EQ(statistics.queued, 0u);
  EXPECT_EQ(statistics.busy, 0u);
  std::printf("stress: %d ran, %d dropped, %lu wake-ups, %lu threads started\n", ran.load(),
              dropped.load(), statistics.wakeups, statistics.threads_started);
}

}  // namespace
