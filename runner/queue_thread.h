// SPDX-License-Identifier: MIT
//
// The threads that serve I/O: each has one io_uring, and queues of any devices on it.
#ifndef UBLK_RUNNER_QUEUE_THREAD_H
#define UBLK_RUNNER_QUEUE_THREAD_H

#include <ublk/handler.h>
#include <ublk/ring.h>

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "async.h"
#include "lone_request_poll.h"
#include "main_context.h"
#include "ring_timers.h"
#include "shared_pools.h"

namespace ublk_runner {

// One thread and its ring. Made and destroyed by the control thread; the rest is said at each
// function. Signals are blocked, it is pinned to no CPU, and it is marked for the kernel as a part
// of the I/O path (PR_SET_IO_FLUSHER), so that its own allocations don't wait for its own disks.
class QueueThread final : private ublk::BufferPool::Waker {
 public:
  // Starts the thread and returns when its ring is there. Throws ublk::Error.
  QueueThread(const MainContext& context, std::shared_ptr<SharedPools> pools, unsigned index);
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

  // The rest is for the thread itself.
  ublk::Ring& ring() { return *ring_; }
  RingTimers& timers() { return *timers_; }
  ublk::BufferPool::Cache& buffers() { return *buffers_; }
  // What is added goes to the workers before the thread sleeps.
  WorkerPool::Feeder& feeder() { return feeder_; }
  // A worker's answer to one of them will come back to this thread, before long perhaps.
  void expect_answer() { expects_answer_ = true; }
  // Calls `visit` before each sleep of the thread, when it has taken in all that other threads have
  // completed, until it returns true.
  void before_sleep(std::function<bool()> visit) { visits_.push_back(std::move(visit)); }

 private:
  void main(std::promise<void>& started);
  void set_up();
  void serve();
  void poll_for_answer();
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
  bool expects_answer_ = false;   // of what is in the feeder
  LoneRequestPoll lone_request_poll_;
  uint64_t turns_ = 0;  // of the loop, ever
  std::thread thread_;
};

// All threads of the process. Their number follows the CPUs, not the devices: a thread costs
// nothing but when it works, and one ring serves hundreds of queues. Control thread.
class QueueThreads {
 public:
  // `count` 0: as many as this process has CPUs, at most kMaxAutomatic.
  QueueThreads(const MainContext& context, std::shared_ptr<SharedPools> pools, unsigned count);

  // The thread for the next queue: each in turn, so the queues of one device are spread, and so
  // are the devices. Starts it if it is the first to need it. Throws ublk::Error.
  QueueThread& next();

  // Ends all threads; one that can't end within `limit` is left behind, for the end of the process.
  Task<> end(Milliseconds limit);

 private:
  // More rarely help: a thread serves some hundred thousand I/Os a second.
  static constexpr unsigned kMaxAutomatic = 16;

  const MainContext context_;
  const std::shared_ptr<SharedPools> pools_;
  const unsigned count_;
  unsigned next_ = 0;
  std::vector<std::unique_ptr<QueueThread>> threads_;  // started ones, by index
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_QUEUE_THREAD_H
