// SPDX-License-Identifier: MIT
//
// Whether a queue thread looks out for a worker's answer for a moment before it sleeps.
#ifndef UBLK_RUNNER_LONE_REQUEST_POLL_H
#define UBLK_RUNNER_LONE_REQUEST_POLL_H

#include <algorithm>
#include <chrono>

namespace ublk_runner {

// With a single request under way its time is the time of the wake-ups between the threads: not to
// sleep while a short item runs saves one of four, and the CPU that going to sleep and coming back
// takes. It is lost CPU if the answer takes longer. So it is tried for every request as long as it
// succeeds; after a failure for one in 16 only, then for fewer, down to one in 1024. Not
// thread-safe.
class LoneRequestPoll {
 public:
  // Some three wake-ups of an idle CPU in a virtual machine, 30 on real hardware.
  static constexpr std::chrono::microseconds kLimit{300};

  // Calls `over` until it returns true, for a limited time, perhaps not at all.
  template <class Over>
  void wait(Over over) {
    if (skip_ != 0) {
      --skip_;
      return;
    }
    using Clock = std::chrono::steady_clock;
    const Clock::time_point limit = Clock::now() + kLimit;
    while (!over()) {
      if (Clock::now() < limit) continue;
      skip_ = next_skip_;
      next_skip_ = std::min(2 * next_skip_, kMaxSkip);
      return;
    }
    next_skip_ = kMinSkip;
  }

 private:
  static constexpr unsigned kMinSkip = 16;
  static constexpr unsigned kMaxSkip = 1024;
  unsigned skip_ = 0;
  unsigned next_skip_ = kMinSkip;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_LONE_REQUEST_POLL_H
