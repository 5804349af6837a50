// SPDX-License-Identifier: MIT
//
// The thread on which names are resolved when a connection is made anew: that may block, and a
// queue's thread must not. One for all devices, asleep but when a server on TCP is being looked
// for.
#ifndef UBLK_HANDLERS_NBD_RESOLVER_H
#define UBLK_HANDLERS_NBD_RESOLVER_H

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace nbd {

class Resolver {
 public:
  // The one of this process; it goes with the last who has it. Any thread.
  static std::shared_ptr<Resolver> shared();

  Resolver();
  ~Resolver();  // waits for the job that runs, and drops the others
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // Runs it on the thread, soon. It must not throw. Any thread.
  void run(std::function<void()> job);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_RESOLVER_H
