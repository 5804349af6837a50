// SPDX-License-Identifier: MIT
// What a thread did with its time: whether it waited for something, or for a CPU.
#ifndef UBLK_RUNNER_THREAD_TIME_H
#define UBLK_RUNNER_THREAD_TIME_H

#include <chrono>
#include <optional>

namespace ublk_runner {

// Whether pieces of work make their thread wait for something, or use the CPU. Belongs to the
// thread that makes and uses it.
class WaitingTime {
 public:
  using Nanoseconds = std::chrono::nanoseconds;

  // Shorter pieces than `significant` are taken as they are: the kernel is asked only for others.
  explicit WaitingTime(Nanoseconds significant) : significant_(significant) {}

  // For a piece that took `duration` of wall time: how long it has kept its thread waiting, or some
  // less than `significant` if it used the CPU, or wanted to and had none. nullopt: can't be told.
  std::optional<Nanoseconds> of(Nanoseconds duration);
  // The thread has slept, and begins a new row of pieces.
  void begin();
  // The thread may have slept in what was no piece.
  void slept_elsewhere() { is_known_ = false; }

 private:
  static long sleeps();  // of this thread, ever

  const Nanoseconds significant_;
  long sleeps_ = 0;        // of it before the next piece
  bool is_known_ = false;  // sleeps_
  bool in_doubt_ = false;  // it is worth a system call to know it after each sleep
  unsigned unasked_ = 0;   // so many pieces are like the last one that the kernel was asked about
};

// Whether a thread runs, or would if it had a CPU. `stat_fd`: its /proc/PID/task/TID/stat. False if
// that can't be read.
bool wants_cpu(int stat_fd);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_THREAD_TIME_H
