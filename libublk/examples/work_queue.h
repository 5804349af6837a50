// SPDX-License-Identifier: MIT
// Threads that take requests from a list: the kind of pool that a storage program has already.
#ifndef UBLK_EXAMPLES_WORK_QUEUE_H
#define UBLK_EXAMPLES_WORK_QUEUE_H

#include <ublk/request.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class WorkQueue {
 public:
  // `serve` is called for each request on one of `threads` threads.
  WorkQueue(unsigned threads, std::function<void(ublk::Request)> serve) : serve_(std::move(serve)) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  // Serves what is queued, then ends.
  ~WorkQueue() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
  }

  void add(ublk::Request request) {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(std::move(request));
    }
    changed_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !requests_.empty(); });
      if (requests_.empty()) return;
      ublk::Request request = std::move(requests_.front());
      requests_.pop_front();
      lock.unlock();
      serve_(std::move(request));
      lock.lock();
    }
  }

  const std::function<void(ublk::Request)> serve_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ublk::Request> requests_;
  bool ending_ = false;
  std::vector<std::jthread> threads_;  // last: they use all of the above
};

#endif  // UBLK_EXAMPLES_WORK_QUEUE_H
