// SPDX-License-Identifier: MIT
#include "job_pool.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "block_signals.h"

namespace ublk_runner {

// They own themselves: what hangs may outlive the pool. Not GLib's threads, whose locks and memory
// are invisible to ThreadSanitizer.
class JobPool::Threads : public std::enable_shared_from_this<Threads> {
 public:
  void push(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    if (jobs_.size() <= idle_)
      changed_.notify_one();
    else if (threads_ < kMaxThreads)
      add_thread();
  }

  // Those that wait end, and the others after what is queued.
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
  }

 private:
  // A start or stop has a job for each device at once; afterwards there is one now and then.
  static constexpr unsigned kMaxIdle = 4;
  static constexpr std::chrono::seconds kIdleLimit{5};

  // If none can be made the job stays queued for one that is there.
  void add_thread() {
    const BlockSignals block;
    try {
      std::thread([self = shared_from_this()] { self->work(); }).detach();
      ++threads_;
    } catch (const std::system_error&) {
    }
  }

  // False: the thread is not wanted any more.
  bool await_job(std::unique_lock<std::mutex>& lock) {
    if (jobs_.empty() && idle_ < kMaxIdle) {
      ++idle_;
      changed_.wait_for(lock, kIdleLimit, [this] { return ending_ || !jobs_.empty(); });
      --idle_;
    }
    return !jobs_.empty();
  }

  void work() {
    pthread_setname_np(pthread_self(), "ublk-jobs");
    std::unique_lock lock(mutex_);
    while (await_job(lock)) {
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // what it holds may be the last of something, and takes as long as the job
      lock.lock();
    }
    --threads_;
  }

  std::mutex mutex_;  // a leaf
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  unsigned threads_ = 0;
  unsigned idle_ = 0;  // of them, and waiting
  bool ending_ = false;
};

JobPool::JobPool(const MainContext& context)
    : context_(context), threads_(std::make_shared<Threads>()) {}

JobPool::~JobPool() { threads_->end(); }

void JobPool::push(std::function<void()> job) { threads_->push(std::move(job)); }

}  // namespace ublk_runner
