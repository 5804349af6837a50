// SPDX-License-Identifier: MIT
//
// How other threads wake a ring's thread, and how to do it once for many completed requests.
#ifndef UBLK_WAKEUP_H
#define UBLK_WAKEUP_H

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "ublk/export.h"
#include "ublk/unique_fd.h"

namespace ublk {

class Ring;

namespace internal {

// A ring's eventfd. Any thread.
class Wakeup {
 public:
  Wakeup();  // throws Error
  int fd() const { return fd_.get(); }
  void write();
  uint64_t writes() const { return writes_.load(std::memory_order_relaxed); }

 private:
  UniqueFd fd_;
  std::atomic<uint64_t> writes_{0};
};

}  // namespace internal

// Puts off the wake-ups of rings, for a thread that is about to complete several requests:
//
//   ublk::WakeupBatch batch;
//   for (...) request.complete(result, &batch);
//   batch.flush();
//
// Until flush() a ring's thread that sleeps may go on sleeping: requests that other threads have
// completed since then wait as well. So flush before anything that may take long. complete() and
// the destructor are for one thread, flush() and pending() for any. It holds nothing that a ring
// needs for its end.
class UBLK_EXPORT WakeupBatch {
 public:
  WakeupBatch() = default;
  ~WakeupBatch() { flush(); }
  WakeupBatch(const WakeupBatch&) = delete;
  WakeupBatch& operator=(const WakeupBatch&) = delete;

  void flush();
  bool pending() const { return pending_.load(std::memory_order_relaxed); }

 private:
  friend class Ring;
  // One ring at a time; another one's turn wakes the first.
  void add(std::shared_ptr<internal::Wakeup> wakeup);

  std::mutex mutex_;  // a leaf; taken once a batch
  std::shared_ptr<internal::Wakeup> wakeup_;
  std::atomic<bool> pending_{false};
};

}  // namespace ublk

#endif  // UBLK_WAKEUP_H
