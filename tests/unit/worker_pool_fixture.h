// SPDX-License-Identifier: MIT
// Work for a pool: items that call functions, and wait until they may go on.
#ifndef UBLK_TESTS_UNIT_WORKER_POOL_FIXTURE_H
#define UBLK_TESTS_UNIT_WORKER_POOL_FIXTURE_H

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <latch>
#include <utility>

#include "worker_pool.h"

namespace test {

using ublk_runner::WorkerPool;

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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

inline void feed_all(WorkerPool& pool, WorkerPool::Client& client, std::deque<Job>& jobs) {
  feed(pool, [&](WorkerPool::Feeder& feeder) {
    for (Job& job : jobs) feeder.add(client, job);
  });
}

}  // namespace test

#endif  // UBLK_TESTS_UNIT_WORKER_POOL_FIXTURE_H
