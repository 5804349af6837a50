// SPDX-License-Identifier: MIT
//
// How a device is taken down, from any state: what is there is undone, the last first.
#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "log.h"
#include "managed_device.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kDrainLimit{20};
constexpr seconds kStopLimit{30};
constexpr seconds kHopelessStopLimit{2};  // with requests that the handler does not answer
constexpr seconds kQueueCloseLimit{10};
constexpr seconds kDeleteLimit{5};
constexpr seconds kCloseLimit{30};
constexpr seconds kCountLimit{1};

// Several waits within one bound.
class Deadline {
 public:
  explicit Deadline(Milliseconds limit) : end_(Clock::now() + limit) {}
  Milliseconds left() const {
    return std::max(Milliseconds{0}, std::chrono::ceil<Milliseconds>(end_ - Clock::now()));
  }

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end_;
};

}  // namespace

Task<> ManagedDevice::stop() {
  interrupt();
  if (state_ == State::kLive)
    co_await tear_down();
  else if (state_ == State::kStopping)
    co_await ended_;
}

Task<> ManagedDevice::tear_down() {
  enter(State::kStopping);
  const bool drained = co_await drain();
  refuse_held();
  const bool stopped = co_await stop_disk(drained);
  remove_link();
  const bool closed = co_await close_queues();
  if (!stopped || !closed) {
    log(LogLevel::kError, name(), "the device stays until this process ends");
    enter(State::kStuck);
  } else {
    node_.reset();
    co_await delete_device();
    co_await close_handler();
    enter(State::kGone);
  }
  ended_.set();
}

// Nothing more is dispatched, and what is dispatched ends. False: not within the bound.
Task<bool> ManagedDevice::drain() {
  std::vector<Completion<>> drained;
  const MainContext context = services_.context;
  for (const Served& served : queues_) {
    const Completion<> done;
    served.queue->thread().post([queue = served.queue, context, done] {
      queue->hold();
      queue->when_drained([context, done] { context.post([done] { done.set(); }); });
    });
    drained.push_back(done);
  }
  const Deadline deadline(kDrainLimit);
  bool all = true;
  for (size_t i = 0; i < drained.size(); ++i) {
    const bool in_time = co_await drained[i].within(context, deadline.left());
    if (in_time) continue;
    all = false;
    co_await report_undrained(*queues_[i].queue);
  }
  co_return all;
}

Task<> ManagedDevice::report_undrained(DeviceQueue& queue) {
  const auto count = queue.thread().run([&queue] { return queue.dispatched(); });
  const bool answered = co_await count.within(services_.context, kCountLimit);
  if (!answered) {
    log(LogLevel::kError, name(), "queue %u: handler %s does not return", queue.index(),
        config_.handler.c_str());
    co_return;
  }
  const unsigned left = co_await count;
  log(LogLevel::kError, name(), "queue %u: handler %s has not answered %u requests", queue.index(),
      config_.handler.c_str(), left);
}

// The one place that decides what becomes of requests that were not dispatched. The device is
// removed, and STOP_DEV waits for all requests: so these, and those that still come, are failed.
void ManagedDevice::refuse_held() {
  for (const Served& served : queues_)
    served.queue->thread().post([queue = served.queue] { queue->refuse(); });
}

// False: the disk is still there, since a request is not answered.
Task<bool> ManagedDevice::stop_disk(bool drained) {
  if (!added_) co_return true;
  int error = 0;
  try {
    co_await services_.commands.run(ublk::Command::stop(info_.dev_id),
                                    drained ? kStopLimit : kHopelessStopLimit);
  } catch (const ublk::Error& e) {
    error = e.error();
    if (error != ENODEV) log(LogLevel::kError, name(), "%s", e.what());
  }
  co_return error != ETIMEDOUT;
}

void ManagedDevice::remove_link() {
  if (!std::exchange(linked_, false)) return;
  try {
    services_.links.remove(name());
  } catch (const std::system_error& e) {
    log(LogLevel::kWarning, name(), "%s", e.what());
  }
}

// All tags have come back from the kernel, and the handler has closed its queues.
Task<bool> ManagedDevice::close_queues() {
  const Deadline deadline(kQueueCloseLimit);
  bool all = true;
  for (const Served& served : queues_) {
    bool closed = co_await served.opened.within(services_.context, deadline.left());
    if (closed) closed = co_await served.closed.within(services_.context, deadline.left());
    if (closed) continue;
    all = false;
    log(LogLevel::kError, name(), "queue %u does not close", served.queue->index());
  }
  co_return all;
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
  queues_.clear();
  if (instance_ == nullptr) co_return;
  instance_.reset();
  const bool closed = co_await instance_closed_.within(services_.context, kCloseLimit);
  if (!closed) log(LogLevel::kError, name(), "handler %s does not close", config_.handler.c_str());
}

}  // namespace ublk_runner
