// SPDX-License-Identifier: MIT
// The time as an I/O thread sees it, which reads no clock that it need not read.
#ifndef UBLK_RUNNER_TURN_CLOCK_H
#define UBLK_RUNNER_TURN_CLOCK_H

#include <cstdint>
#include <ctime>

namespace ublk_runner {

inline uint64_t monotonic_nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Nanoseconds of CLOCK_MONOTONIC. Stands still unless somebody uses it. For its thread.
class TurnClock {
 public:
  void add_user() {
    if (users_++ == 0) start_turn();
  }
  void remove_user() { --users_; }

  // The thread has slept, or may have.
  void begin_turn() {
    if (users_ != 0) [[unlikely]]
      start_turn();
  }

  uint64_t turn() const { return turn_; }  // when this turn of the loop began
  uint64_t last() const { return last_; }  // when the clock was last read
  uint64_t read() { return last_ = monotonic_nanoseconds(); }
  // last(), but not before a time that another thread has read.
  uint64_t at_least(uint64_t time) { return time > last_ ? read() : last_; }

 private:
  void start_turn() { turn_ = read(); }

  uint64_t turn_ = 0;
  uint64_t last_ = 0;
  unsigned users_ = 0;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_TURN_CLOCK_H
