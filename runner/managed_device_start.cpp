// SPDX-License-Identifier: MIT
//
// How a new device comes up, and the queues of any.
#include <ublk/error.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <stdexcept>
#include <utility>

#include "absent_handler.h"
#include "deadline.h"
#include "log.h"
#include "managed_device.h"
#include "params_from_geometry.h"
#include "uevent.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kQueueOpenLimit{10};
constexpr seconds kStartLimit{30};  // the kernel reads the partition table in it

// Of a new device: tells it from another one that gets its id later.
uint64_t make_cookie() {
  std::random_device random;
  const uint64_t cookie = uint64_t{random()} << 32 | random();
  return cookie != 0 ? cookie : 1;
}

}  // namespace

Task<> ManagedDevice::start(std::function<void()> lost, bool recovering) {
  const auto permit = co_await operations_.acquire();  // until all is undone, should it fail
  std::exception_ptr failure;
  try {
    enter(State::kOpening);
    refuse_second();
    OpenHandler handler = co_await open_handler(config_, nullptr, recovering);
    const ublk_geometry geometry = handler.geometry;
    use_handler(std::move(handler), config_);
    params_ = checked_params(geometry, config_);
    max_queues_ = geometry.max_queues;
    co_await fence();
    co_await add();
    enter(State::kStarting);
    co_await open_queues();
    co_await start_disk();
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure) {
    co_await tear_down();
    std::rethrow_exception(failure);
  }
  watch(std::move(lost));
  if (resize_wanted_) size_changed();
}

// A device of this name that was not taken over may still be there, with a file system that is
// mounted and writes that wait: a second one of the same storage would come into its way, and its
// file is what a runner that understands it needs.
void ManagedDevice::refuse_second() const {
  if (services_.state == nullptr || !services_.state->has(name())) return;
  throw std::runtime_error(services_.state->dir() + '/' + name() +
                           ".json is of a device that was not taken over: start the release that "
                           "has written it, or remove it once nobody uses that device");
}

uint32_t ManagedDevice::wanted_queues(const DeviceConfig& config) const {
  // Each costs memory, and slots of its thread's ring, whether it is used or not.
  constexpr unsigned kMaxAutomaticQueues = 4;
  return config.queues != 0 ? config.queues
                            : std::min(services_.threads.count(), kMaxAutomaticQueues);
}

// Of a handler for a device that the kernel has already, with its queues.
void ManagedDevice::check_queues(const ublk_geometry& geometry) const {
  if (geometry.max_queues == 0 || geometry.max_queues >= info_.nr_hw_queues) return;
  throw std::runtime_error("the device has " + std::to_string(info_.nr_hw_queues) +
                           " queues, the handler now takes " + std::to_string(geometry.max_queues) +
                           " at most");
}

void ManagedDevice::check_offer(const abi::Params& offered) const {
  const std::string shortcoming = params_shortcoming(params_, offered);
  if (!shortcoming.empty())
    throw std::runtime_error("the kernel can't change it while the device lives: " + shortcoming);
}

Task<> ManagedDevice::add() {
  enter(State::kAdding);
  const uint32_t queues = wanted_queues(config_);
  abi::DevInfo wanted{};
  wanted.nr_hw_queues =
      static_cast<uint16_t>(max_queues_ != 0 ? std::min(queues, max_queues_) : queues);
  wanted.queue_depth = static_cast<uint16_t>(config_.queue_depth);
  wanted.max_io_buf_bytes = params_.basic.max_sectors * abi::kSectorSize;
  choose_buffers(wanted);
  wanted.flags |= recovery_flags();
  if (services_.state != nullptr) cookie_ = make_cookie();
  wanted.ublksrv_flags = cookie_;
  co_await add_with_free_id(wanted);
  if (info_.nr_hw_queues < queues)
    log(LogLevel::kInfo, name(), "%u queues instead of %u, the limit of %s", info_.nr_hw_queues,
        queues, wanted.nr_hw_queues < queues ? config_.handler.c_str() : "the CPUs");
  co_await services_.commands.run(ublk::Command::set_params(info_.dev_id, params_));
  node_ = ublk::DeviceNode::open(services_.commands.driver(), info_);
}

// The device is saved before it is there, so that no death of this process leaves one that the next
// does not know.
Task<> ManagedDevice::add_with_free_id(abi::DevInfo wanted) {
  for (uint32_t first = 0; !added_; first = wanted.dev_id + 1) {
    id_ = services_.ids.take_from(first);
    wanted.dev_id = info_.dev_id = id_.id();
    save_state();
    try {
      const ublk::Command added = co_await services_.commands.run(ublk::Command::add(wanted));
      info_ = added.info();
      added_ = true;
    } catch (const ublk::Error& e) {
      if (e.error() != EEXIST) throw;  // else it is another server's
    }
  }
}

void ManagedDevice::choose_buffers(abi::DevInfo& wanted) {
  const ublk_handler& handler = instance_->table();
  ublk::BufferPool& pool = services_.pools->buffers();
  const size_t max_io_size = wanted.max_io_buf_bytes;
  const uint64_t features = services_.commands.features();
  // An automatic choice must not stand in the way of what is asked for.
  const bool avoids_get_data =
      config_.batch_io == BatchOption::kOn && config_.buffer == BufferOption::kAuto;
  const BufferNeeds needs = {handler, can_zero_copy_,
                             avoids_get_data ? features & ~abi::kFlagNeedGetData : features,
                             max_io_size * wanted.queue_depth * wanted.nr_hw_queues};
  // What is registered can't be taken from the storage, and so not be failed in time.
  const bool avoids_zero_copy = fails_late_requests_ && config_.zero_copy == ZeroCopyOption::kAuto;
  buffers_ = choose_buffer_mode(
      config_.buffer, avoids_zero_copy ? ZeroCopyOption::kOff : config_.zero_copy, needs, pool);
  pool_share_ = pool_share(buffers_.mode, handler, pool, max_io_size);
  wanted.flags |= buffer_flags(buffers_) |
                  choose_batch_flag(config_.batch_io, buffers_, wanted.queue_depth, features);
}

// What the kernel is to do when this process dies.
uint64_t ManagedDevice::recovery_flags() const {
  if (services_.state == nullptr || config_.recovery == RecoveryOption::kNone) return 0;
  if (is_volatile_) {
    log(LogLevel::kDebug, name(), "is not recovered: its data does not outlive this process");
    return 0;
  }
  if (config_.recovery == RecoveryOption::kReissue)
    return abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue;
  if ((services_.commands.features() & abi::kFlagUserRecoveryFailIo) == 0)
    throw std::runtime_error(
        "recovery = fail-io: this kernel can't (UBLK_F_USER_RECOVERY_FAIL_IO, Linux 6.13)");
  return abi::kFlagUserRecovery | abi::kFlagUserRecoveryFailIo;
}

// ------------------------------------------------------------------- queues --

// With the handler that is open, or with none.
std::shared_ptr<DeviceQueue> ManagedDevice::make_queue(uint16_t index, Served& served) {
  const MainContext context = services_.context;
  DeviceQueueEvents events;
  events.failed = [context, device = weak_from_this(), index](uint16_t tag, int error) {
    context.post([device, index, tag, error] {
      if (const auto alive = device.lock()) alive->queue_failed(index, tag, error);
    });
  };
  events.released = [context, device = weak_from_this(), released = served.released] {
    context.post([device, released] {
      released.set();
      if (const auto alive = device.lock()) alive->lose();
    });
  };
  served.closed = {};
  events.closed = [context, closed = served.closed] { context.post([closed] { closed.set(); }); };
  const bool absent = instance_ == nullptr;
  const DeviceQueue::Handler handler = {absent ? absent_handler() : instance_->table(),
                                        absent ? nullptr : instance_->get(),
                                        name(),
                                        absent ? nullptr : instance_->workers(),
                                        pool_share_,
                                        can_zero_copy_,
                                        served.statistics,
                                        absent ? Milliseconds(0) : io_timeout_,
                                        fails_late_requests_};
  auto queue = std::make_shared<DeviceQueue>(handler, *served.thread, index, info_.queue_depth,
                                             rules_from_params(params_), std::move(events));
  if (!absent) instance_->keep(queue);
  return queue;
}

ManagedDevice::Served ManagedDevice::open_queue(uint16_t index) {
  Served served;
  served.thread = &services_.threads.thread_for(index, info_.nr_hw_queues);
  served.statistics = std::make_shared<QueueStatistics>(index, info_.queue_depth);
  served.queue = make_queue(index, served);
  // If the thread comes to it only after this device has given up, the node is gone by then.
  std::shared_ptr<void> alive = instance_;
  if (alive == nullptr) alive = served.queue;
  served.opened =
      served.thread->run([queue = served.queue, alive, weak_node = std::weak_ptr(node_),
                          held = instance_ == nullptr, statistics = services_.statistics] {
        std::shared_ptr<ublk::DeviceNode> node = weak_node.lock();
        if (node == nullptr) return;
        if (held) queue->hold();
        queue->open(std::move(node), alive);
        queue->use_statistics(statistics);
      });
  return served;
}

Task<> ManagedDevice::wait_until_open(uint16_t index) {
  const Completion<> opening = queues_[index].opened;
  const bool opened = co_await opening.within(services_.context, kQueueOpenLimit);
  if (!opened)
    throw std::runtime_error("queue " + std::to_string(index) +
                             ": its thread does not answer within " +
                             seconds_text(kQueueOpenLimit));
  co_await opening;
}

Task<> ManagedDevice::open_queues() {
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index)
    queues_.push_back(open_queue(index));
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index) co_await wait_until_open(index);
}

Task<> ManagedDevice::start_disk() {
  if (interrupted_) throw std::runtime_error("interrupted, the runner stops");
  co_await services_.commands.run(ublk::Command::start(info_.dev_id, getpid()), kStartLimit);
  link();
  enter(State::kLive);
  log(LogLevel::kInfo, name(), "%s: %s, %llu bytes, %u queues of %u, buffers: %s (%s)%s",
      node().c_str(), config_.handler.c_str(), static_cast<unsigned long long>(size()),
      info_.nr_hw_queues, info_.queue_depth, buffer_name(buffers_), buffers_.reason.c_str(),
      (info_.flags & abi::kFlagBatchIo) != 0 ? ", batch I/O" : "");
  announce_to_udev(node());
}

}  // namespace ublk_runner
