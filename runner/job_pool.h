// SPDX-License-Identifier: MIT
//
// Threads for what may block: loading a handler, its open, geometry, fence and close.
#ifndef UBLK_RUNNER_JOB_POOL_H
#define UBLK_RUNNER_JOB_POOL_H

#include <functional>
#include <memory>
#include <utility>

#include "async.h"
#include "main_context.h"

namespace ublk_runner {

// A device has at most one job at a time, beside the closing of a handler that was given up. A job
// that hangs (a backend that does not answer) takes one thread and holds up its own device alone,
// which starts no other one by itself meanwhile. The bound is far above what can be worth running
// at once, and is reached only when this many devices hang.
//
// Made and destroyed by the control thread. Jobs that still run at the end are left to themselves.
class JobPool {
 public:
  static constexpr unsigned kMaxThreads = 1024;

  explicit JobPool(const MainContext& context);
  ~JobPool();
  JobPool(const JobPool&) = delete;
  JobPool& operator=(const JobPool&) = delete;

  // Runs `function` on a thread of the pool. It is destroyed there, too, before the completion is
  // delivered.
  template <class F>
  auto run(F function) {
    return call_elsewhere(
        context_, [this](std::function<void()> job) { push(std::move(job)); }, std::move(function));
  }

  void push(std::function<void()> job);  // any thread

 private:
  class Threads;

  const MainContext context_;
  const std::shared_ptr<Threads> threads_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_JOB_POOL_H
