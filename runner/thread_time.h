// SPDX-License-Identifier: MIT
// What a thread did with its time: whether it waited for something, or for a CPU.
#ifndef UBLK_RUNNER_THREAD_TIME_H
#define UBLK_RUNNER_THREAD_TIME_H

#include <chrono>
#include <optional>

namespace ublk_runner {

// How long pieces of work have occupied their thread, the one that makes and uses this. Time in
// which it wanted to run and had no CPU does not count.
class OccupiedTime {
 public:
  using Nanoseconds = std::chrono::nanoseconds;

  // Pieces shorter than `significant` are taken as they are; only for others is the kernel asked.
  explicit OccupiedTime(Nanoseconds significant) : significant_(significant) {}

  // For a piece that took `duration` of wall time. nullopt: it would have been short.
  std::optional<Nanoseconds> of(Nanoseconds duration);
  // The thread may have slept since the last piece, in what was none.
  void slept_elsewhere() { slept_elsewhere_ = true; }

 private:
  struct Usage {
    Nanoseconds cpu;
    long sleeps;
  };
  static Usage usage();

  const Nanoseconds significant_;
  Usage last_ = usage();
  int pieces_ = 0;  // since then
  bool slept_elsewhere_ = false;
};

// Whether a thread runs, or would if it had a CPU. `stat_fd`: its /proc/PID/task/TID/stat. False if
// that can't be read.
bool wants_cpu(int stat_fd);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_THREAD_TIME_H
