// SPDX-License-Identifier: MIT
//
// Of the sources of WorkerPool alone.
#ifndef UBLK_RUNNER_WORKER_POOL_WORKER_H
#define UBLK_RUNNER_WORKER_POOL_WORKER_H

#include <sched.h>
#include <sys/types.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <atomic>

#include "thread_time.h"
#include "worker_pool.h"

namespace ublk_runner {

// A thread, or the record of one that has gone. Guarded by the pool's mutex.
struct WorkerPool::Worker {
  explicit Worker(WorkerPool& of) : pool(of) {}
  void flush_completions() {
    if (completions != nullptr) completions->flush_if_left();
  }
  // `to`: a CPU, or kAnyCpu for all that the process's first thread may use, which nobody binds:
  // others may be bound, and their new threads with them.
  void bind(int to) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (to != kAnyCpu)
      CPU_SET(to, &cpus);
    else
      sched_getaffinity(getpid(), sizeof(cpus), &cpus);
    cpu = sched_setaffinity(tid, sizeof(cpus), &cpus) == 0 ? to : kAnyCpu;
  }
  WorkerPool& pool;
  std::list<Worker>::iterator position;
  pid_t tid = 0;
  int cpu = kAnyCpu;                 // that it is bound to
  std::condition_variable ordered;   // `order` is set; or the pool ends
  Order order = Order::kNone;        // what to do next
  bool soon = false;                 // runs an item, or flushes, and counts in soon_
  Client* client = nullptr;          // whose item runs
  Clock::time_point started;         // since then
  std::atomic<bool> in_item{false};  // of run(); the only one that changes without the mutex
  ublk::UniqueFd stat;               // its /proc/self/task/ID/stat
  ublk::CompletionBatch* completions = nullptr;  // its thread's, with a lock of its own
  WaitingTime waiting{kWorthWaking / 2};         // its thread's, which alone uses it
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_WORKER_POOL_WORKER_H
