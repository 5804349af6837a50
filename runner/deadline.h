// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_DEADLINE_H
#define UBLK_RUNNER_DEADLINE_H

#include <algorithm>
#include <chrono>

#include "main_context.h"

namespace ublk_runner {

// Several waits within one bound.
class Deadline {
 public:
  explicit Deadline(Milliseconds limit) : end_(Clock::now() + limit) {}
  Milliseconds left() const {
    return std::max(Milliseconds{0}, std::chrono::ceil<Milliseconds>(end_ - Clock::now()));
  }
  bool is_over() const { return left().count() == 0; }

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEADLINE_H
