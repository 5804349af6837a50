// SPDX-License-Identifier: MIT
#include "resolver.h"

#include <pthread.h>
#include <signal.h>

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

// Signals are for the runner's threads.
Resolver::Resolver() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Resolver::~Resolver() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Resolver::run(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void Resolver::serve() {
  pthread_setname_np(pthread_self(), "ublk-nbd-names");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace nbd
