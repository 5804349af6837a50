// SPDX-License-Identifier: MIT
//
// The threads that serve I/O: each has one io_uring, and queues of any devices on it.
#ifndef UBLK_RUNNER_QUEUE_THREAD_H
#define UBLK_RUNNER_QUEUE_THREAD_H

#include <ublk/handler.h>
#include <ublk/ring.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "adaptive_spin.h"
#include "async.h"
#include "main_context.h"
#include "queue_placement.h"
#include "ring_timers.h"
#include "shared_pools.h"
#include "turn_clock.h"

namespace ublk_runner {

// One thread and its ring. Made and destroyed by the control thread; the rest is said at each
// function. Signals are blocked, it is pinned to no CPU and takes none from others
// (batch_scheduling.h).
class QueueThread final : private ublk::BufferPool::Waker {
 public:
  // Starts the thread and returns when its ring is there. After work it looks for more for up to
  // `spin` before it sleeps; 0: never. Throws ublk::Error.
  QueueThread(const MainContext& context, std::shared_ptr<SharedPools> pools, unsigned index,
              std::chrono::microseconds spin);
  // Ends the thread. No queue may be left on it.
  ~QueueThread();
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;

  // Runs `task` on the thread, soon. It must not throw. Any thread.
  void post(std::function<void()> task) { ring_->post(std::move(task)); }
  // Runs `function` on the thread and delivers its result to the control thread. Any thread.
  template <class F>
  auto run(F function) {
    return call_elsewhere(
        context_, [this](std::function<void()> task) { post(std::move(task)); },
        std::move(function));
  }

  // What whoever waits for an answer puts here when it does not come in time, and what is gone once
  // the thread has come to it; shared, since who waits may outlive the thread. Control thread.
  std::shared_ptr<std::weak_ptr<void>> late() const { return late_; }

  // The rest is for the thread itself.
  ublk::Ring& ring() { return *ring_; }
  RingTimers& timers() { return *timers_; }
  ublk::BufferPool::Cache& buffers() { return *buffers_; }
  TurnClock& clock() { return clock_; }
  // What is added goes to the workers before the thread sleeps.
  WorkerPool::Feeder& feeder() { return feeder_; }
  // Calls `visit` before each sleep of the thread, when it has taken in all that other threads have
  // completed, until it returns true.
  void before_sleep(std::function<bool()> visit) { visits_.push_back(std::move(visit)); }

 private:
  void main(std::promise<void>& started);
  void set_up();
  void serve();
  void look_out();
  bool kernel_has_news() const;
  int enter();
  void visit_all();
  void call_soon() noexcept override;
  void dispatch(const io_uring_cqe& cqe);

  const MainContext context_;
  const std::shared_ptr<SharedPools> pools_;
  const unsigned index_;
  WorkerPool::Feeder feeder_;
  // Made by the thread, kept until the object goes, so that a late post() is harmless.
  io_uring uring_{};
  std::optional<ublk::Ring> ring_;
  std::optional<RingTimers> timers_;
  std::optional<ublk::BufferPool::Cache> buffers_;  // others may call call_soon() while it is there
  std::vector<std::function<bool()>> visits_;
  bool ending_ = false;
  bool workers_put_off_ = false;  // in the last turn
  AdaptiveSpin spin_;
  uint64_t turns_ = 0;  // of the loop, ever
  TurnClock clock_;
  const std::shared_ptr<std::weak_ptr<void>> late_ = std::make_shared<std::weak_ptr<void>>();
  std::thread thread_;
};

// All threads of the process. Their number follows the CPUs, not the devices: a thread costs
// nothing but when it works, and one ring serves hundreds of queues. Control thread.
class QueueThreads {
 public:
  // `count` 0: automatic().
  QueueThreads(const MainContext& context, std::shared_ptr<SharedPools> pools, unsigned count,
               std::chrono::microseconds spin);

  // Half as many as this process has CPUs, which are `cpus`, at least one and at most
  // kMaxAutomatic. Who submits and who works for the handlers needs CPUs, too; where each CPU has a
  // queue thread it runs between any two of them, and finds one request at a time.
  static unsigned automatic(unsigned cpus) { return std::clamp(cpus / 2, 1u, kMaxAutomatic); }

  unsigned count() const { return placement_.threads(); }  // at most
  // The thread for queue `index` of a device that has `queues`. Starts it if it is the first to
  // need it. Throws ublk::Error.
  QueueThread& thread_for(unsigned index, unsigned queues);

  // Ends all threads; one that can't end within `limit` is left behind, for the end of the process,
  // and so is, at once, one with queues if `some_stay`: those are left to another process.
  Task<> end(Milliseconds limit, bool some_stay);

 private:
  // More rarely help: a thread serves some hundred thousand I/Os a second.
  static constexpr unsigned kMaxAutomatic = 16;

  const MainContext context_;
  const std::shared_ptr<SharedPools> pools_;
  const std::chrono::microseconds spin_;
  QueuePlacement placement_;
  std::vector<std::unique_ptr<QueueThread>> threads_;  // by index; nullptr: not started
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_QUEUE_THREAD_H
