// SPDX-License-Identifier: MIT
//
// The threads on which names are resolved when a connection is made anew: that may block, and a
// queue's thread must not. For all devices, and asleep but when a server on TCP is being looked
// for. There is one, and more where a name comes while all are busy, since one that no server of
// names answers for takes its thread half a minute.
#ifndef UBLK_HANDLERS_NBD_RESOLVER_H
#define UBLK_HANDLERS_NBD_RESOLVER_H

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace nbd {

class Resolver {
 public:
  // The one of this process; it goes with the last who has it. Any thread.
  static std::shared_ptr<Resolver> shared();

  Resolver();
  ~Resolver();  // waits for the jobs that run, and drops the others
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // Runs it on one of the threads, soon; they are started in order, kMaxThreads at once. It must
  // not throw. Any thread.
  void run(std::function<void()> job);

  static constexpr unsigned kMaxThreads = 8;

 private:
  void add_thread();
  void serve();

  std::mutex mutex_;  // a leaf; guards what follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  size_t idle_ = 0;  // threads that run no job
  std::vector<std::thread> threads_;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_RESOLVER_H
