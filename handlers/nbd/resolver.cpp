// SPDX-License-Identifier: MIT
#include "resolver.h"

#include <pthread.h>
#include <signal.h>

#include <memory>
#include <system_error>
#include <utility>

namespace nbd {

std::shared_ptr<Resolver> Resolver::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Resolver> the_one;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Resolver> resolver = the_one.lock();
  if (resolver == nullptr) the_one = resolver = std::make_shared<Resolver>();
  return resolver;
}

Resolver::Resolver() { add_thread(); }

Resolver::~Resolver() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// Throws std::system_error.
void Resolver::add_thread() {
  // Signals are for the runner's threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const auto restore = [](const sigset_t* mask) { pthread_sigmask(SIG_SETMASK, mask, nullptr); };
  const std::unique_ptr<sigset_t, decltype(restore)> restored(&before, restore);
  threads_.emplace_back([this] { serve(); });
  ++idle_;
}

void Resolver::run(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    if (jobs_.size() > idle_ && threads_.size() < kMaxThreads) {
      try {
        add_thread();
      } catch (const std::system_error&) {
        // It waits for one of those that there are.
      }
    }
  }
  changed_.notify_one();
}

void Resolver::serve() {
  pthread_setname_np(pthread_self(), "ublk-nbd-names");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    --idle_;
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
    ++idle_;
  }
}

}  // namespace nbd
