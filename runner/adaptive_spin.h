// SPDX-License-Identifier: MIT
//
// Whether a thread looks out for work for a moment before it sleeps.
#ifndef UBLK_RUNNER_ADAPTIVE_SPIN_H
#define UBLK_RUNNER_ADAPTIVE_SPIN_H

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace ublk_runner {

// Going to sleep, being woken and coming back take time and CPU, which are saved if there is work
// again soon enough; else what was spent on looking is lost. So it is tried each time as long as it
// succeeds; after a failure for one time in 16 only, then for fewer, down to one in 1024. Not
// thread-safe.
class AdaptiveSpin {
 public:
  explicit AdaptiveSpin(std::chrono::microseconds limit) : limit_(limit) {}

  bool enabled() const { return limit_.count() != 0; }

  // Calls `over` until it returns true, within the limit, perhaps not at all. Returns whether it
  // has.
  template <class Over>
  bool wait(Over over) {
    if (skip_ != 0) {
      --skip_;
      return false;
    }
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + limit_;
    ++tried_;
    while (!over()) {
      if (Clock::now() < end) {
        // Who is to bring it may wait for just this CPU, and can't take it (batch_scheduling.h).
        // However long that takes, it is looked at once more.
        sched_yield();
        continue;
      }
      ++failed_;
      skip_ = next_skip_;
      next_skip_ = std::min(2 * next_skip_, kMaxSkip);
      return false;
    }
    next_skip_ = kMinSkip;
    return true;
  }

  // Ever.
  uint64_t tried() const { return tried_; }
  uint64_t failed() const { return failed_; }

 private:
  static constexpr unsigned kMinSkip = 16;
  static constexpr unsigned kMaxSkip = 1024;
  const std::chrono::microseconds limit_;
  unsigned skip_ = 0;
  unsigned next_skip_ = kMinSkip;
  uint64_t tried_ = 0;
  uint64_t failed_ = 0;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_ADAPTIVE_SPIN_H
