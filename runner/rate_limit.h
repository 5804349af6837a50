// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_RATE_LIMIT_H
#define UBLK_RUNNER_RATE_LIMIT_H

#include <atomic>
#include <chrono>
#include <cstdint>

namespace ublk_runner {

// Lets a line into the log at most once a second, since a handler that is wrong is wrong at every
// request. Any thread.
class RateLimit {
 public:
  // True if the line may be written; `skipped` is then how many were not since the last one.
  bool allow(uint64_t& skipped) {
    const int64_t now = std::chrono::steady_clock::now().time_since_epoch() / kInterval;
    if (last_.exchange(now, std::memory_order_relaxed) == now) {
      skipped_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    skipped = skipped_.exchange(0, std::memory_order_relaxed);
    return true;
  }

 private:
  static constexpr std::chrono::seconds kInterval{1};
  std::atomic<int64_t> last_{-1};  // the interval of the last line
  std::atomic<uint64_t> skipped_{0};
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RATE_LIMIT_H
