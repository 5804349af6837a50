// SPDX-License-Identifier: MIT
// How fast a pool is under what a queue thread gives it, and that no item is lost among many
// threads.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "eventually.h"
#include "sanitizers.h"
#include "worker_pool_fixture.h"

using namespace std::chrono_literals;
using test::Clock;
using test::eventually;
using test::Job;
using test::kSanitized;
using test::seconds_since;
using ublk_runner::WorkerPool;

namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

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
  const Load one = measure("1 ms sleep, limit 1, depth 64", 1, 64,
                           [](unsigned) { std::this_thread::sleep_for(1ms); });
  measure("1 ms sleep, limit 32, depth 32", 32, 32,
          [](unsigned) { std::this_thread::sleep_for(1ms); });
  measure("100 us sleep, limit 32, depth 64", 32, 64,
          [](unsigned) { std::this_thread::sleep_for(100us); });
  EXPECT_EQ(load.threads, 32u);
  if (!kSanitized) {
    EXPECT_GT(load.per_second, 5 * one.per_second);  // 32 at best
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
  const Load one = measure("1 in 20 sleeps 1 ms, limit 1, depth 64", 1, 64, one_in(20));
  measure("1 in 200 sleeps 1 ms, limit 32, depth 64", 32, 64, one_in(200));
  if (!kSanitized) {
    EXPECT_GT(load.per_second, one.per_second);
  }
}

TEST(WorkerPoolLoad, MixedClients) {
  const Load one =
      measure("1 ms sleep, limit 1", 1, 64, [](unsigned) { std::this_thread::sleep_for(1ms); });
  const Load alone = measure("trivial, depth 64", 16, 64, [](unsigned) {});
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
    EXPECT_GT(static_cast<double>(slow.count()) / seconds, 3 * one.per_second);
    EXPECT_GT(static_cast<double>(fast.count()) / seconds, alone.per_second / 30);
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
