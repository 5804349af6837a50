// SPDX-License-Identifier: MIT
#include "managed_device.h"

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
#include "params_from_geometry.h"
#include "uevent.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kGeometryLimit{30};
constexpr seconds kQueueOpenLimit{10};
constexpr seconds kStatisticsLimit{1};
constexpr seconds kStartLimit{30};  // the kernel reads the partition table in it

constexpr const char* kStateNames[] = {"new",  "opening",  "adding", "starting", "adopting", "live",
                                       "held", "stopping", "gone",   "stuck",    "left"};

// Of a new device: tells it from another one that gets its id later.
uint64_t make_cookie() {
  std::random_device random;
  const uint64_t cookie = uint64_t{random()} << 32 | random();
  return cookie != 0 ? cookie : 1;
}

}  // namespace

ManagedDevice::ManagedDevice(DeviceServices& services, DeviceConfig config, bool configured)
    : services_(services), config_(std::move(config)), configured_(configured) {
  choose_queues(config_);
}

void ManagedDevice::choose_queues(DeviceConfig& config) const {
  // Each costs memory, and slots of its thread's ring, whether it is used or not.
  constexpr unsigned kMaxAutomaticQueues = 4;
  if (config.queues == 0) config.queues = std::min(services_.threads.count(), kMaxAutomaticQueues);
}

const char* ManagedDevice::state_name() const { return kStateNames[static_cast<size_t>(state_)]; }

std::string ManagedDevice::trouble() const {
  return trouble_.empty() && instance_ != nullptr ? instance_->trouble() : trouble_;
}

void ManagedDevice::enter(State state) {
  const char* before = state_name();
  state_ = state;
  log(LogLevel::kDebug, name(), "%s -> %s", before, state_name());
  services_.changed();
}

void ManagedDevice::set_configured(bool configured) {
  if (std::exchange(configured_, configured) == configured) return;
  if (is_up()) update_state();
  services_.changed();
}

bool ManagedDevice::may_show(const std::string& key) const {
  if (!config_.options.contains(key)) return true;
  return secret_options_.has_value() && !secret_options_->contains(key);
}

uint64_t ManagedDevice::size() const { return params_.basic.dev_sectors * abi::kSectorSize; }

std::string ManagedDevice::node() const {
  return added_ ? abi::kBlockDevicePrefix + std::to_string(info_.dev_id) : "";
}

// ----------------------------------------------------------------- starting --

Task<> ManagedDevice::start(std::function<void()> lost) {
  std::exception_ptr failure;
  try {
    const auto permit = co_await operations_.acquire();
    enter(State::kOpening);
    refuse_second();
    OpenHandler handler = co_await open_handler(config_, nullptr, false);
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
  lost_ = std::move(lost);
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

void ManagedDevice::interrupt() {
  interrupted_ = true;
  if (interrupt_wait_) std::exchange(interrupt_wait_, nullptr)();
  if (interrupt_retry_) std::exchange(interrupt_retry_, nullptr)();
}

abi::Params ManagedDevice::checked_params(const ublk_geometry& geometry,
                                          const DeviceConfig& config) const {
  try {
    return params_from_geometry(geometry, {config.read_only, config.max_io_size});
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error("geometry of handler " + config.handler + ": " + e.what());
  }
}

Task<> ManagedDevice::add() {
  enter(State::kAdding);
  abi::DevInfo wanted{};
  wanted.nr_hw_queues = static_cast<uint16_t>(
      max_queues_ != 0 ? std::min(config_.queues, max_queues_) : config_.queues);
  wanted.queue_depth = static_cast<uint16_t>(config_.queue_depth);
  wanted.max_io_buf_bytes = params_.basic.max_sectors * abi::kSectorSize;
  choose_buffers(wanted);
  wanted.flags |= recovery_flags();
  if (services_.state != nullptr) cookie_ = make_cookie();
  wanted.ublksrv_flags = cookie_;
  co_await add_with_free_id(wanted);
  if (info_.nr_hw_queues < config_.queues)
    log(LogLevel::kInfo, name(), "%u queues instead of %u, the limit of %s", info_.nr_hw_queues,
        config_.queues,
        wanted.nr_hw_queues < config_.queues ? config_.handler.c_str() : "the CPUs");
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

void ManagedDevice::save_state(std::chrono::nanoseconds held_since) {
  if (cookie_ == 0) return;
  SavedDevice saved;
  saved.name = name();
  saved.id = info_.dev_id;
  saved.cookie = cookie_;
  for (const auto& [key, setting] : config_.settings) saved.settings[key] = setting.value;
  saved.configured = configured_;
  saved.held_since = held_since;
  services_.state->save(saved);
}

// Of a device that is served whether that succeeds or not. What was saved before stays.
void ManagedDevice::update_state(std::chrono::nanoseconds held_since) {
  try {
    save_state(held_since);
  } catch (const std::exception& e) {
    log(LogLevel::kError, name(), "the next runner gets what was saved before: %s", e.what());
  }
}

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

void ManagedDevice::open_queue(uint16_t index) {
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
  queues_.push_back(std::move(served));
}

Task<> ManagedDevice::open_queues() {
  for (uint16_t index = 0; index < info_.nr_hw_queues; ++index) open_queue(index);
  for (Served& served : queues_) {
    const bool opened = co_await served.opened.within(services_.context, kQueueOpenLimit);
    if (!opened)
      throw std::runtime_error("queue " + std::to_string(served.queue->index()) +
                               ": its thread does not answer within " +
                               seconds_text(kQueueOpenLimit));
    co_await served.opened;
  }
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

void ManagedDevice::link() {
  services_.links.add(name(), node());
  linked_ = true;
}

// ------------------------------------------------------------ while it lives --

void ManagedDevice::queue_failed(uint16_t index, uint16_t tag, int error) {
  log(LogLevel::kError, name(), "the kernel refuses to serve tag %u of queue %u: %s", tag, index,
      ublk::errno_name(error).c_str());
  lose();
}

void ManagedDevice::lose() {
  if (!is_up() || lost_ == nullptr) return;
  log(LogLevel::kError, name(), "the kernel has ended the device");
  services_.context.post(std::exchange(lost_, nullptr));
}

void ManagedDevice::use_statistics() const {
  for (const Served& served : queues_)
    served.thread->post(
        [queue = served.queue, on = services_.statistics] { queue->use_statistics(on); });
}

// A thread that a handler blocks does not answer: then at least its counters are read.
Task<DeviceStatistics> ManagedDevice::statistics() const {
  struct Asked {
    std::shared_ptr<QueueStatistics> statistics;
    Completion<DeviceStatistics> answer;
  };
  std::vector<Asked> asked;  // queues_ may be others by the time of the answer
  for (const Served& served : queues_)
    asked.push_back({served.statistics, served.thread->run([statistics = served.statistics] {
                       return statistics->collect();
                     })});
  DeviceStatistics all;
  all.enabled = services_.statistics;
  const Deadline deadline(kStatisticsLimit);
  for (const Asked& queue : asked) {
    const bool in_time = co_await queue.answer.within(services_.context, deadline.left());
    if (in_time) {
      const DeviceStatistics answer = co_await queue.answer;
      all.add(answer);
    } else {
      all.add(queue.statistics->counters());
      ++all.silent_queues;
    }
  }
  co_return all;
}

void ManagedDevice::size_changed() {
  resize_wanted_ = true;
  if (state_ == State::kLive && !resizing_) tasks_.start(resize());
}

Task<> ManagedDevice::resize() {
  resizing_ = true;
  while (resize_wanted_ && state_ == State::kLive) {
    resize_wanted_ = false;
    const auto permit = co_await operations_.acquire();
    if (state_ != State::kLive) break;
    try {
      const auto describing = services_.jobs->run([i = instance_] { return i->geometry(); });
      const ublk_geometry geometry =
          co_await wait_for_handler(describing, kGeometryLimit, "geometry");
      co_await update_size(checked_params(geometry, config_).basic.dev_sectors);
    } catch (const std::exception& e) {
      if (!interrupted_) log(LogLevel::kError, name(), "the size is not changed: %s", e.what());
    }
  }
  resizing_ = false;
}

Task<> ManagedDevice::update_size(uint64_t sectors) {
  if (sectors == params_.basic.dev_sectors) co_return;
  if ((services_.commands.features() & abi::kFlagUpdateSize) == 0)
    throw std::runtime_error("this kernel can't change it (UBLK_F_UPDATE_SIZE, Linux 6.16)");

  // Requests beyond the old end come as soon as the kernel knows the new one.
  const uint64_t before = params_.basic.dev_sectors;
  if (sectors > before) set_sectors(sectors);
  std::exception_ptr failure;
  try {
    co_await services_.commands.run(ublk::Command::update_size(info_.dev_id, sectors));
  } catch (...) {
    failure = std::current_exception();
  }
  set_sectors(failure ? before : sectors);
  if (failure) std::rethrow_exception(failure);
  log(LogLevel::kInfo, name(), "the size is now %llu bytes",
      static_cast<unsigned long long>(size()));
}

void ManagedDevice::set_sectors(uint64_t sectors) {
  params_.basic.dev_sectors = sectors;
  const RequestRules rules = rules_from_params(params_);
  for (const Served& served : queues_)
    served.queue->thread().post([queue = served.queue, rules] { queue->set_rules(rules); });
  services_.changed();
}

}  // namespace ublk_runner
