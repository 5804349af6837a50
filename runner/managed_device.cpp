// SPDX-License-Identifier: MIT
#include "managed_device.h"

#include <ublk/error.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "deadline.h"
#include "log.h"
#include "params_from_geometry.h"

namespace ublk_runner {

namespace {

using std::chrono::seconds;
namespace abi = ublk::abi;

constexpr seconds kStatisticsLimit{1};
constexpr seconds kRulesLimit{1};  // a thread that is blocked serves nothing meanwhile

constexpr const char* kStateNames[] = {"new",  "opening",  "adding", "starting", "adopting", "live",
                                       "held", "stopping", "gone",   "stuck",    "left"};

}  // namespace

ManagedDevice::ManagedDevice(DeviceServices& services, DeviceConfig config, bool configured)
    : services_(services), config_(std::move(config)), configured_(configured) {}

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

void ManagedDevice::interrupt() {
  interrupted_ = true;
  if (interrupt_wait_) std::exchange(interrupt_wait_, nullptr)();
  if (interrupt_retry_) std::exchange(interrupt_retry_, nullptr)();
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

void ManagedDevice::link() {
  services_.links.add(name(), node());
  linked_ = true;
}

void ManagedDevice::queue_failed(uint16_t index, uint16_t tag, int error) {
  log(LogLevel::kError, name(), "the kernel refuses to serve tag %u of queue %u: %s", tag, index,
      ublk::errno_name(error).c_str());
  lose();
}

// What has happened while nobody watched is told now.
void ManagedDevice::watch(std::function<void()> lost) {
  lost_ = std::move(lost);
  if (std::exchange(lost_unseen_, false)) lose();
}

void ManagedDevice::lose() {
  if (!is_up()) return;
  if (lost_ == nullptr) {
    lost_unseen_ = true;
    return;
  }
  log(LogLevel::kError, name(), "the kernel has ended the device");
  services_.context.post(std::exchange(lost_, nullptr));
}

void ManagedDevice::use_statistics() const {
  for (const Served& served : queues_)
    served.thread->post(
        [queue = served.queue, on = services_.statistics] { queue->use_statistics(on); });
}

// A thread that a handler blocks does not answer: then at least its counters are read. It is waited
// for once, not by each of its devices.
Task<DeviceStatistics> ManagedDevice::statistics() const {
  struct Asked {
    std::shared_ptr<QueueStatistics> statistics;
    std::weak_ptr<void> question;  // gone when it has been answered
    std::shared_ptr<std::weak_ptr<void>> late;
    Completion<DeviceStatistics> answer;
  };
  std::vector<Asked> asked;  // queues_ may be others by the time of the answer
  for (const Served& served : queues_) {
    const auto question = std::make_shared<char>();
    const auto collect = [question, statistics = served.statistics] {
      return statistics->collect();
    };
    asked.push_back(
        {served.statistics, question, served.thread->late(), served.thread->run(collect)});
  }
  DeviceStatistics all;
  all.enabled = services_.statistics;
  const Deadline deadline(kStatisticsLimit);
  for (const Asked& queue : asked) {
    const Milliseconds limit = queue.late->expired() ? deadline.left() : Milliseconds(0);
    const bool in_time = co_await queue.answer.within(services_.context, limit);
    if (in_time) {
      const DeviceStatistics answer = co_await queue.answer;
      all.add(answer);
    } else {
      *queue.late = queue.question;
      all.add(queue.statistics->counters());
      ++all.silent_queues;
    }
  }
  co_return all;
}

abi::Params ManagedDevice::checked_params(const ublk_geometry& geometry,
                                          const DeviceConfig& config) const {
  try {
    return params_from_geometry(geometry, {config.read_only, config.max_io_size});
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error("geometry of handler " + config.handler + ": " + e.what());
  }
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
      const ublk_geometry geometry = co_await describe(instance_);
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
  if (sectors > before) {
    std::vector<Completion<>> known = set_sectors(sectors);
    const Deadline deadline(kRulesLimit);
    for (const Completion<>& done : known) co_await done.within(services_.context, deadline.left());
  }
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

// Returns what is settled once the queues know it.
std::vector<Completion<>> ManagedDevice::set_sectors(uint64_t sectors) {
  params_.basic.dev_sectors = sectors;
  const RequestRules rules = rules_from_params(params_);
  std::vector<Completion<>> known;
  for (const Served& served : queues_)
    known.push_back(
        served.queue->thread().run([queue = served.queue, rules] { queue->set_rules(rules); }));
  services_.changed();
  return known;
}

}  // namespace ublk_runner
