// SPDX-License-Identifier: MIT
//
// How a device is taken down, from any state: what is there is undone, the last first.
#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "deadline.h"
#include "log.h"
#include "managed_device.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;

constexpr seconds kThreadLimit{5};  // a handler may not block a queue's thread at all
constexpr seconds kWriteBackLimit{20};
constexpr seconds kDrainLimit{5};  // for the handler to answer
constexpr seconds kCancelLimit{5};
constexpr seconds kReleaseLimit{5};  // for the kernel, once nothing is left to wait for
constexpr seconds kStopLimit =
    kWriteBackLimit + kDrainLimit + kCancelLimit + kThreadLimit + 2 * kReleaseLimit;
constexpr seconds kQueueCloseLimit{10};
constexpr seconds kDeleteLimit{5};

Task<bool> all_within(const MainContext& context, const std::vector<Completion<>>& completions,
                      Milliseconds limit) {
  const Deadline deadline(limit);
  bool all = true;
  for (const Completion<>& completion : completions) {
    const bool in_time = co_await completion.within(context, deadline.left());
    all = all && in_time;
  }
  co_return all;
}

}  // namespace

void leave_open(std::shared_ptr<void> object) {
  static auto& left = *new std::vector<std::shared_ptr<void>>;
  left.push_back(std::move(object));
}

Task<> ManagedDevice::stop() {
  interrupt();
  const auto permit = co_await operations_.acquire();
  if (is_up())
    co_await tear_down();
  else if (state_ == State::kStopping)
    co_await ended_;
}

Task<> ManagedDevice::tear_down() {
  enter(State::kStopping);
  const bool stopped = co_await stop_disk();
  remove_link();
  if (stopped) {
    node_.reset();
    co_await delete_device();
    forget_state();
    buffers_ = {};
    pool_share_.reset();
    co_await close_handler();
    enter(State::kGone);
  } else {
    log(LogLevel::kError, name(), "the device stays until this process ends");
    if (instance_ != nullptr) leave_open(std::move(instance_));
    enter(State::kStuck);
  }
  ended_.set();
}

// Takes the disk away, and the tags back from the kernel. False: that can't be done, since a
// queue's thread does not return from the handler.
//
// In STOP_DEV the kernel first writes back what is dirty, of a mounted file system too, then fails
// what is new, then waits for what it has handed out. So requests are served as ever meanwhile; if
// they were not, a stop would lose data. Only when that takes too long, or the handler has stopped
// to answer, are they held: then nothing more is dispatched, what is dispatched gets its time, then
// the handler is asked to cancel it, and the rest is failed.
//
// A STOP_DEV that waits for a request can't be cancelled, and neither can a process end that has
// one under way: so it is not begun if its requests can't be completed. With zero copy those that
// the storage is at work on end only when it has answered, also if they are failed: their memory is
// that of whoever uses the disk.
Task<bool> ManagedDevice::stop_disk() {
  if (!added_) co_return true;
  const bool answering = co_await threads_answer();
  if (!answering) co_return false;
  // Without a handler nothing can be written back, and waiting brings none.
  if (instance_ == nullptr) refuse();
  const Completion<> stopped;
  tasks_.start(run_stop(stopped));
  const Writeback end = co_await write_back(stopped);
  if (end != Writeback::kDone) {
    const bool stalled = end == Writeback::kStalled;
    log(LogLevel::kWarning, name(), "%s within %s: nothing more is served",
        stalled ? "its handler answers nothing" : "its disk does not stop",
        seconds_text(stalled ? kDrainLimit : kWriteBackLimit).c_str());
    co_await drain_or_cancel(stalled ? seconds(0) : kDrainLimit);
    co_await fail_rest();
    co_await stopped.within(services_.context, kReleaseLimit);
  }
  const Deadline deadline(kReleaseLimit);
  bool released = true;
  for (const Served& served : queues_) {
    const bool in_time = co_await served.released.within(services_.context, deadline.left());
    if (in_time) continue;
    released = false;
    log(LogLevel::kError, name(), "the kernel does not release queue %u", served.queue->index());
  }
  co_return released;
}

// It also makes sure that a queue that is still being opened is open by now, or never will be.
Task<bool> ManagedDevice::threads_answer() {
  std::vector<Completion<>> answers;
  for (const Served& served : queues_) answers.push_back(served.thread->run([] {}));
  const Deadline deadline(kThreadLimit);
  bool all = true;
  for (size_t i = 0; i < answers.size(); ++i) {
    const bool in_time = co_await answers[i].within(services_.context, deadline.left());
    if (in_time) continue;
    all = false;
    log(LogLevel::kError, name(),
        "the thread of queue %u does not answer: a handler blocks it, perhaps %s",
        queues_[i].queue->index(), config_.handler.c_str());
  }
  co_return all;
}

Task<> ManagedDevice::run_stop(Completion<> stopped) {
  try {
    co_await services_.commands.run(ublk::Command::stop(info_.dev_id), kStopLimit);
  } catch (const ublk::Error& e) {
    // Somebody else may have deleted the device.
    if (e.error() != ENODEV) log(LogLevel::kError, name(), "%s", e.what());
  }
  stopped.set();
}

// Requests are served until the disk has stopped, within a bound, and no longer than the handler
// answers any of those that it has: without an answer nothing is written back.
Task<ManagedDevice::Writeback> ManagedDevice::write_back(Completion<> stopped) {
  const Deadline deadline(kWriteBackLimit);
  std::vector<uint64_t> before = co_await unanswered();
  while (!deadline.is_over()) {
    const Milliseconds limit = std::min<Milliseconds>(kDrainLimit, deadline.left());
    const bool in_time = co_await stopped.within(services_.context, limit);
    if (in_time) co_return Writeback::kDone;
    std::vector<uint64_t> now = co_await unanswered();
    if (!before.empty() && std::ranges::includes(now, before)) co_return Writeback::kStalled;
    before = std::move(now);
  }
  co_return Writeback::kTooSlow;
}

// Of all queues, in order.
Task<std::vector<uint64_t>> ManagedDevice::unanswered() {
  const Deadline deadline(kThreadLimit);
  std::vector<uint64_t> all;
  for (const Served& served : queues_) {
    const auto answer = served.thread->run([queue = served.queue] { return queue->unanswered(); });
    const bool in_time = co_await answer.within(services_.context, deadline.left());
    if (!in_time) continue;
    const std::vector<uint64_t> requests = co_await answer;
    all.insert(all.end(), requests.begin(), requests.end());
  }
  co_return all;
}

// Nothing more is dispatched; waits for what is dispatched, within a bound. True: all is answered.
Task<bool> ManagedDevice::drain() {
  const std::vector<Completion<>> drained = hold_queues();
  co_return co_await all_within(services_.context, drained, kDrainLimit);
}

std::vector<Completion<>> ManagedDevice::hold_queues() {
  std::vector<Completion<>> drained;
  const MainContext context = services_.context;
  for (const Served& served : queues_) {
    const Completion<> done;
    served.thread->post([queue = served.queue, context, done] {
      queue->hold();
      queue->when_drained([context, done] { context.post([done] { done.set(); }); });
    });
    drained.push_back(done);
  }
  return drained;
}

// The same for a device that is to go: what is not answered in time is cancelled, and gets a while.
Task<> ManagedDevice::drain_or_cancel(Milliseconds limit) {
  const std::vector<Completion<>> drained = hold_queues();
  const bool in_time = co_await all_within(services_.context, drained, limit);
  if (in_time || instance_ == nullptr || instance_->table().cancel == nullptr) co_return;
  log(LogLevel::kWarning, name(), "handler %s is asked to cancel what it has not answered",
      config_.handler.c_str());
  for (const Served& served : queues_)
    served.thread->post([queue = served.queue] {
      queue->refuse();
      queue->cancel();
    });
  co_await all_within(services_.context, drained, kCancelLimit);
}

// The one place that decides what becomes of requests that are held, and of those that a handler
// does not answer. The device is removed: so they are failed, and those that still come, too.
Task<> ManagedDevice::fail_rest() {
  const Deadline deadline(kThreadLimit);
  for (const Served& served : queues_) {
    const auto failing = served.thread->run([queue = served.queue] {
      queue->refuse();
      queue->thread().feeder().flush();  // what is not on its way to the workers can't be dropped
      return queue->abandon();
    });
    const bool in_time = co_await failing.within(services_.context, deadline.left());
    if (!in_time) continue;
    const unsigned unanswered = co_await failing;
    if (unanswered == 0) continue;
    log(LogLevel::kError, name(), "handler %s has not answered %u requests of queue %u",
        config_.handler.c_str(), unanswered, served.queue->index());
    unanswered_ = true;
  }
  if (instance_ == nullptr || instance_->workers() == nullptr) co_return;
  WorkerPool::ItemList queued = instance_->workers()->drop_queued();
  while (WorkerPool::Item* item = queued.pop()) DeviceQueue::drop(*item);
}

void ManagedDevice::remove_link() {
  if (!std::exchange(linked_, false)) return;
  try {
    services_.links.remove(name(), node());
  } catch (const std::system_error& e) {
    log(LogLevel::kWarning, name(), "%s", e.what());
  }
}

void ManagedDevice::forget_state() {
  if (std::exchange(cookie_, 0) == 0) return;
  try {
    services_.state->remove(name());
  } catch (const std::system_error& e) {
    log(LogLevel::kWarning, name(), "%s", e.what());
  }
}

// DEL_DEV and not its async sister: it returns when the id is free again, so a device that somebody
// still has open is known, and waiting in the kernel it holds up nobody.
Task<> ManagedDevice::delete_device() {
  if (!added_) co_return;
  try {
    co_await services_.commands.run(ublk::Command::del(info_.dev_id), kDeleteLimit);
  } catch (const ublk::Error& e) {
    if (e.error() != ENODEV) log(LogLevel::kWarning, name(), "%s", e.what());
  }
}

Task<> ManagedDevice::close_handler() {
  const bool may_close = co_await queues_closed();
  queues_.clear();
  if (instance_ == nullptr) co_return;
  if (!may_close) {
    log(LogLevel::kError, name(), "handler %s is left open", config_.handler.c_str());
    leave_open(std::move(instance_));
    co_return;
  }
  co_await close_instance();
}

Task<bool> ManagedDevice::queues_closed() {
  if (unanswered_) co_return false;
  const Deadline deadline(kQueueCloseLimit);
  bool all = true;
  for (const Served& served : queues_) {
    const bool in_time = co_await served.closed.within(services_.context, deadline.left());
    if (in_time) continue;
    all = false;
    log(LogLevel::kError, name(), "handler %s does not close queue %u", config_.handler.c_str(),
        served.queue->index());
  }
  co_return all;
}

}  // namespace ublk_runner
