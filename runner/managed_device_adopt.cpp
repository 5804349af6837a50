// SPDX-License-Identifier: MIT
//
// A device that outlives its runner: how the next one takes it over, and how this one leaves it.
#include <ublk/error.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "deadline.h"
#include "log.h"
#include "managed_device.h"
#include "process_age.h"
#include "runner_error.h"
#include "uevent.h"

namespace ublk_runner {

namespace {

using std::chrono::nanoseconds;
using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kReleasedLimit{60};  // of a dead server's last I/O
constexpr Milliseconds kRetryInterval{20};
constexpr seconds kEndRecoveryLimit{30};
constexpr Milliseconds kLookLimit{5000};
constexpr Milliseconds kTransientLimit{3000};  // udev's look at a device
constexpr Milliseconds kTransientInterval{100};

// Goes on while the machine sleeps, and is the same for all processes until it boots.
nanoseconds boot_time() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

// For the log. The clock is behind where the machine was restored from an image.
std::string pause_since(nanoseconds held_since) {
  if (held_since.count() <= 0) return "its runner was killed";
  const nanoseconds pause = std::max(boot_time() - held_since, nanoseconds(0));
  return "its I/O was held for " +
         std::to_string(std::chrono::duration_cast<Milliseconds>(pause).count()) + " ms";
}

}  // namespace

// -------------------------------------------------------------------- adopt --

Task<> ManagedDevice::adopt(SavedDevice saved, abi::DevInfo info, std::function<void()> lost) {
  const auto permit = co_await operations_.acquire();
  enter(State::kAdopting);
  std::exception_ptr failure;
  try {
    co_await recover(info);
  } catch (const std::exception& e) {
    trouble_ = e.what();
    failure = std::current_exception();
  }
  if (failure) {
    // Its I/O waits for the next attempt, of this runner or another one.
    if (instance_ != nullptr && queues_.empty()) co_await close_instance();
    enter(State::kLeft);
    std::rethrow_exception(failure);
  }
  cookie_ = saved.cookie;
  // From here on it is served, whatever fails.
  try {
    link();
  } catch (const std::exception& e) {
    log(LogLevel::kError, name(), "%s; it is %s", e.what(), node().c_str());
  }
  watch(std::move(lost));
  log(LogLevel::kInfo, name(), "%s: adopted %lld ms after the start, %s", node().c_str(),
      static_cast<long long>(process_age().count()), pause_since(saved.held_since).c_str());
  update_state();
  if (instance_ == nullptr) {
    enter(State::kHeld);
    log(LogLevel::kWarning, name(), "held: %s", trouble_.c_str());
    tasks_.start(reattach());
  } else {
    go_on();
    announce_to_udev(node());
  }
}

void ManagedDevice::leave_for_later(const std::string& trouble) {
  trouble_ = trouble;
  enter(State::kLeft);
}

// The order matters: once START_USER_RECOVERY succeeds the dead server's process has let go of the
// device; the fence is what makes sure of its storage; only then may requests be served again.
Task<> ManagedDevice::recover(abi::DevInfo info) {
  const bool again = std::exchange(added_, true);
  if (!again) id_ = services_.ids.take_from(info.dev_id);
  info_ = info;
  const ublk::Command described =
      co_await services_.commands.run(ublk::Command::get_params(info.dev_id));
  params_ = described.params();
  co_await start_recovery(again ? Milliseconds(0) : kReleasedLimit);
  buffers_.mode = ublk::buffer_mode(info_);
  buffers_.zero_copy = ublk::zero_copy(info_);
  buffers_.reason = "adopted";
  if (buffers_.mode != ublk::BufferMode::kCopy)
    pool_share_ = std::make_shared<ublk::BufferPool::Device>(services_.pools->buffers(),
                                                             info_.max_io_buf_bytes);
  std::string trouble;
  try {
    OpenHandler handler = co_await open_handler(config_, nullptr, true);
    const ublk_geometry geometry = handler.geometry;
    use_handler(std::move(handler), config_);
    check_queues(geometry);
    const abi::Params wanted = checked_params(geometry, config_);
    check_offer(wanted);
    co_await fence();
    // The handler may have told of another size meanwhile.
    if (wanted.basic.dev_sectors != params_.basic.dev_sectors) resize_wanted_ = true;
  } catch (const std::exception& e) {
    trouble = e.what();
  }
  trouble_ = std::move(trouble);
  if (!trouble_.empty()) co_await close_instance();
  node_ = ublk::DeviceNode::open(services_.commands.driver(), info_);
  co_await open_adopted_queues();
  co_await services_.commands.run(ublk::Command::end_recovery(info_.dev_id, getpid()),
                                  kEndRecoveryLimit);
}

// The kernel wants a server for each queue. One that the handler can't open is held without it, and
// so are then the others, until reattach() has a handler for all; but not if it has buffers of the
// handler's by now.
Task<> ManagedDevice::open_adopted_queues() {
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index)
    queues_.push_back(open_queue(index));
  std::vector<uint16_t> refused;
  std::string trouble;
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index) {
    try {
      co_await wait_until_open(index);
    } catch (const std::exception& e) {
      if (instance_ == nullptr || !queues_[index].opened.is_settled()) throw;
      refused.push_back(index);
      trouble = e.what();
    }
  }
  if (refused.empty()) co_return;
  if (kernel_has_handlers_buffers()) throw std::runtime_error(trouble);
  std::shared_ptr<HandlerInstance> instance = std::exchange(instance_, nullptr);
  std::exception_ptr failure;
  try {
    for (const uint16_t index : refused) queues_[index] = open_queue(index);
    for (const uint16_t index : refused) co_await wait_until_open(index);
  } catch (...) {
    failure = std::current_exception();
  }
  instance_ = std::move(instance);
  if (failure) std::rethrow_exception(failure);
  const bool held = co_await drain();
  if (!held) throw std::runtime_error(trouble);
  co_await detach_handler();
  trouble_ = trouble;
}

// The kernel refuses it as long as the dead process is not quite gone, which is awaited.
Task<> ManagedDevice::start_recovery(Milliseconds limit) {
  const Deadline deadline(limit);
  for (;;) {
    int error = 0;
    std::string text;
    try {
      co_await services_.commands.run(ublk::Command::start_recovery(info_.dev_id));
    } catch (const ublk::Error& e) {
      error = e.error();
      text = e.what();
    }
    if (error == EINVAL) error = co_await go_on_with_recovery();
    if (error == 0) co_return;
    bool stopped = false;  // for good, by what the dead process has begun
    if (error == EBUSY) {
      const ublk::Command now =
          co_await services_.commands.run(ublk::Command::get_info(info_.dev_id));
      stopped = static_cast<abi::DeviceState>(now.info().state) == abi::DeviceState::kDead;
    }
    if (error != EBUSY || stopped || deadline.is_over() || interrupted_)
      throw std::runtime_error(text);
    const Completion<> never;
    co_await never.within(services_.context, kRetryInterval);
  }
}

// Linux 6.12 takes no second START_USER_RECOVERY when a runner has died between the first one and
// its fetches: there is nothing to be reset, and the device waits to be served. What a success
// would have told, that the dead process has let go of it, is told by its being opened, since it
// has one opener at a time. But not for long: that kernel lets one process map the descriptors
// until the next START_USER_RECOVERY that it takes, and if this one died, too, there would be none.
// Returns 0 or the error of start_recovery().
Task<int> ManagedDevice::go_on_with_recovery() {
  const ublk::Command now = co_await services_.commands.run(ublk::Command::get_info(info_.dev_id));
  if (static_cast<abi::DeviceState>(now.info().state) != abi::DeviceState::kQuiesced)
    co_return EINVAL;
  try {
    services_.commands.driver().open_device(info_.dev_id);
  } catch (const ublk::Error& e) {
    co_return e.error() == EBUSY ? EBUSY : EINVAL;
  }
  log(LogLevel::kInfo, name(), "its recovery has been begun by a runner that is gone");
  co_return 0;
}

// -------------------------------------------------------------------- leave --

Task<> ManagedDevice::end() {
  interrupt();
  const auto permit = co_await operations_.acquire();
  if (!is_up()) {
    if (state_ == State::kStopping) co_await ended_;
    co_return;
  }
  lost_ = nullptr;
  std::string user;
  const bool recoverable = cookie_ != 0 && (info_.flags & abi::kFlagUserRecovery) != 0;
  if (recoverable) user = co_await find_user();
  if (user.empty()) {
    co_await tear_down();
    co_return;
  }
  log(LogLevel::kInfo, name(), "stays for the next runner: %s", user.c_str());
  co_await leave();
}

Task<> ManagedDevice::remove() {
  const auto permit = co_await operations_.acquire();
  if (!is_up()) throw std::runtime_error(std::string("it is ") + state_name());
  std::function<void()> lost = std::exchange(lost_, nullptr);
  const std::string user = co_await find_user();
  if (!user.empty()) {
    watch(std::move(lost));
    throw RunnerError(RunnerError::Kind::kInUse, "it is in use: " + user);
  }
  interrupt();
  co_await tear_down();
}

// To open a disk may take I/O on it, to find its partitions.
Task<std::vector<DeviceUser>> ManagedDevice::find_users() {
  const auto permit = co_await services_.looks.acquire();
  const auto looking =
      services_.jobs->run([users = services_.users, node = node()] { return users(node); });
  const bool in_time = co_await looking.within(services_.context, kLookLimit);
  if (!in_time) co_return std::vector<DeviceUser>{{"it can't be told in time who uses it"}};
  co_return co_await looking;
}

// Who uses the device; empty: nobody. Where the kernel can it decides, and has stopped the device
// if nobody does. Else what can be seen decides, and between the look and the stop somebody may
// come.
Task<std::string> ManagedDevice::find_user() {
  const bool kernel_decides = (info_.flags & abi::kFlagSafeStopDev) != 0;
  const Deadline deadline(kTransientLimit);
  for (;;) {
    const std::vector<DeviceUser> users = co_await find_users();
    const auto lasting = std::find_if(users.begin(), users.end(),
                                      [](const DeviceUser& user) { return !user.transient; });
    if (lasting != users.end()) co_return lasting->what;
    bool stopped = users.empty();
    if (stopped && kernel_decides) {
      try {
        co_await services_.commands.run(ublk::Command::try_stop(info_.dev_id));
      } catch (const ublk::Error& e) {
        stopped = e.error() != EBUSY;
      }
    }
    if (stopped) co_return std::string();
    if (deadline.is_over()) co_return std::string("somebody has it open");
    const Completion<> never;
    co_await never.within(services_.context, kTransientInterval);
  }
}

// Requests that are not dispatched, and those that the handler does not answer in time, stay with
// the kernel: it gives them to the next server.
Task<> ManagedDevice::leave() {
  const nanoseconds held_since = boot_time();
  const bool drained = co_await drain();
  update_state(held_since);
  bool closed = false;
  if (drained && instance_ != nullptr && !kernel_has_handlers_buffers()) {
    try {
      co_await detach_handler();
      closed = true;
    } catch (const std::exception& e) {
      log(LogLevel::kWarning, name(), "%s", e.what());
    }
  } else if (!drained) {
    log(LogLevel::kWarning, name(), "the handler does not answer its requests: they are left, too");
  }
  if (!closed && instance_ != nullptr) leave_open(std::move(instance_));
  for (Served& served : queues_) leave_open(std::move(served.queue));
  queues_.clear();
  enter(State::kLeft);
}

}  // namespace ublk_runner
