// SPDX-License-Identifier: MIT
//
// Which of the I/O threads serves which queue.
#ifndef UBLK_RUNNER_QUEUE_PLACEMENT_H
#define UBLK_RUNNER_QUEUE_PLACEMENT_H

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ublk_runner {

// The kernel divides the CPUs among the queues of a device, in the same way for each device with as
// many. So a part of the threads, by number, belongs to each queue: who submits from some CPU then
// wakes the same few threads, whichever device it is for, and the scheduler, which no one keeps
// from it by pinning them, runs them near. Among those the least used one is chosen, so devices of
// one queue are spread over all threads. Not thread-safe.
class QueuePlacement {
 public:
  explicit QueuePlacement(unsigned threads) : placed_(threads) {}

  unsigned threads() const { return static_cast<unsigned>(placed_.size()); }

  // The thread for queue `index` of a device that has `queues`.
  unsigned place(unsigned index, unsigned queues) {
    const uint64_t threads = placed_.size();
    const auto first = static_cast<unsigned>(index * threads / queues);
    const auto end = std::max(first + 1, static_cast<unsigned>((index + 1) * threads / queues));
    const auto least = std::min_element(placed_.begin() + first, placed_.begin() + end);
    ++*least;
    return static_cast<unsigned>(least - placed_.begin());
  }

 private:
  std::vector<uint64_t> placed_;  // queues of each thread, ever
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_QUEUE_PLACEMENT_H
