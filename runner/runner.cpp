// SPDX-License-Identifier: MIT
#include "runner.h"

#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "log.h"
#include "option_value.h"
#include "runner_error.h"

namespace ublk_runner {

namespace {

namespace abi = ublk::abi;

constexpr std::chrono::seconds kThreadEndLimit{5};
constexpr std::chrono::seconds kDeadDeleteLimit{1};
constexpr Milliseconds kFirstRetry{1000};  // of a takeover
constexpr Milliseconds kLongestRetry{15'000};

// Whether another server can go on with a device. One without a disk has not been started yet, or
// is stopped already, whatever its flags say.
bool can_be_adopted(const abi::DevInfo& info) {
  return (info.flags & abi::kFlagUserRecovery) != 0 &&
         static_cast<abi::DeviceState>(info.state) != abi::DeviceState::kDead;
}

}  // namespace

Runner::Runner(RunnerOptions options, GMainContext* context)
    : context_(context),
      options_(std::move(options)),
      jobs_(std::make_shared<JobPool>(context_)),
      commands_(context_, options_.driver != nullptr ? *options_.driver : ublk::Driver::kernel()),
      links_(options_.link_dir) {
  if (!options_.state_dir.empty()) state_.emplace(options_.state_dir);
}

Runner::~Runner() = default;

void Runner::changed() const {
  if (changed_) changed_();
}

std::shared_ptr<ManagedDevice> Runner::find(const std::string& name) const {
  const auto device = std::find_if(devices_.begin(), devices_.end(),
                                   [&](const auto& d) { return d->name() == name; });
  return device == devices_.end() ? nullptr : *device;
}

std::shared_ptr<ManagedDevice> Runner::get(const std::string& name) const {
  std::shared_ptr<ManagedDevice> device = find(name);
  if (device == nullptr)
    throw RunnerError(RunnerError::Kind::kNotFound, "there is no device \"" + name + '"');
  return device;
}

void Runner::check_running() const {
  if (stopping_) throw RunnerError(RunnerError::Kind::kStopping, "the runner stops");
  if (!started_.is_settled())
    throw RunnerError(RunnerError::Kind::kStarting, "the runner is still starting its devices");
}

void Runner::drop(const std::shared_ptr<ManagedDevice>& device) {
  std::erase(devices_, device);
  changed();
}

// -------------------------------------------------------------------- start --

void Runner::start(const Config& config, std::function<void(StartSummary)> done) {
  settings_ = config;
  settings_.devices.clear();
  pools_ = SharedPools::make(context_, config.buffer_memory);
  threads_.emplace(context_, pools_, config.io_threads, std::chrono::microseconds(config.spin));
  services_.emplace(DeviceServices{context_, jobs_, commands_, *threads_, pools_, ids_, links_,
                                   options_.handler_dir, options_.users, looks_,
                                   state_ ? &*state_ : nullptr, [this] { changed(); },
                                   config.statistics, options_.open_limit});
  tasks_.start(start_all(config, std::move(done)));
}

// Devices are side by side from their first step to the last; what bounds them is bounded where it
// happens: control commands (ControlCommands), blocking calls (JobPool).
Task<> Runner::start_all(Config config, std::function<void(StartSummary)> done) {
  StartSummary summary;
  if (state_) co_await adopt_all(summary);

  std::vector<std::shared_ptr<ManagedDevice>> added;
  std::vector<Task<>> starting;
  for (const DeviceConfig& device : config.devices) {
    if (options_.adopt_only || find(device.name) != nullptr || stopping_) continue;
    added.push_back(std::make_shared<ManagedDevice>(*services_, device));
    devices_.push_back(added.back());
    starting.push_back(start_device(added.back()));
  }
  std::vector<Outcome<void>> outcomes = co_await when_all(std::move(starting));
  for (size_t i = 0; i < outcomes.size(); ++i) {
    try {
      outcomes[i].take();
      ++summary.started;
    } catch (const std::exception& e) {
      summary.failed.push_back({added[i]->name(), e.what()});
    }
  }
  if (state_ && !stopping_ && !options_.adopt_only) {
    // Those that have just failed are not tried again.
    std::erase_if(config.devices, [this](const auto& d) { return find(d.name) == nullptr; });
    co_await apply(std::move(config));
  }
  count_late_takeovers(summary);
  changed();
  context_.post([done = std::move(done), summary = std::move(summary)] { done(summary); });
  started_.set();
}

// Those that failed at first and were tried again while others started.
void Runner::count_late_takeovers(StartSummary& summary) const {
  const auto served = std::erase_if(summary.failed, [this](const StartSummary::Failure& failure) {
    const std::shared_ptr<ManagedDevice> device = find(failure.device);
    return device != nullptr && (device->state() == ManagedDevice::State::kLive ||
                                 device->state() == ManagedDevice::State::kHeld);
  });
  summary.started += served;
  summary.left -= served;
}

Task<> Runner::adopt_all(StartSummary& summary) {
  StateStore::Contents saved = state_->load();
  for (const std::string& finding : saved.findings)
    log(LogLevel::kError, {}, "%s", finding.c_str());
  std::vector<std::string> names;
  std::vector<Task<>> adopting;
  for (SavedDevice& device : saved.devices) {
    names.push_back(device.name);
    adopting.push_back(adopt_device(std::move(device)));
  }
  std::vector<Outcome<void>> outcomes = co_await when_all(std::move(adopting));
  for (size_t i = 0; i < outcomes.size(); ++i) {
    try {
      outcomes[i].take();
      if (find(names[i]) != nullptr) ++summary.started;
    } catch (const std::exception& e) {
      log(LogLevel::kError, names[i], "is not adopted: %s", e.what());
      summary.failed.push_back({names[i], std::string("is not adopted: ") + e.what()});
      if (find(names[i]) != nullptr) ++summary.left;
    }
  }
}

// What the kernel says counts: a device is adopted only if it is the one that was saved. nullopt:
// there is nothing to adopt, any more.
Task<std::optional<abi::DevInfo>> Runner::look_for(SavedDevice saved) {
  abi::DevInfo info{};
  int error = 0;
  try {
    const ublk::Command asked = co_await commands_.run(ublk::Command::get_info(saved.id));
    info = asked.info();
  } catch (const ublk::Error& e) {
    error = e.error();
    if (error != ENODEV) throw;
  }
  if (error == ENODEV || info.ublksrv_flags != saved.cookie) {
    log(LogLevel::kInfo, saved.name, "is gone since it was saved");
    forget(saved);
    co_return std::nullopt;
  }
  if (!can_be_adopted(info)) {
    co_await remove_dead(saved);
    co_return std::nullopt;
  }
  co_return info;
}

Task<> Runner::adopt_device(SavedDevice saved) {
  std::exception_ptr failure;
  std::string trouble;
  std::optional<abi::DevInfo> info;
  try {
    info = co_await look_for(saved);
  } catch (const std::exception& e) {
    trouble = e.what();
    failure = std::current_exception();
  }
  if (!failure && !info.has_value()) co_return;
  std::map<std::string, Setting> settings;
  const Location location = {state_->dir() + '/' + saved.name + ".json", 0};
  for (const auto& [key, value] : saved.settings) settings[key] = {value, location};
  const auto device = std::make_shared<ManagedDevice>(
      *services_, device_from_settings(saved.name, settings), saved.configured);
  devices_.push_back(device);
  if (failure) {
    device->leave_for_later(trouble);
  } else {
    try {
      co_await take_over(device, saved, *info);
    } catch (...) {
      failure = std::current_exception();
    }
    if (!failure) co_return;
  }
  if (device->adoptable()) tasks_.start(take_over_later(device, saved));
  std::rethrow_exception(failure);
}

Task<> Runner::take_over(std::shared_ptr<ManagedDevice> device, SavedDevice saved,
                         abi::DevInfo info) {
  std::exception_ptr failure;
  try {
    co_await device->adopt(saved, info, when_lost(device));
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return;
  // The dead runner may have been stopping it.
  const std::optional<abi::DevInfo> now = co_await look_for(saved);
  if (now.has_value()) std::rethrow_exception(failure);
  if (!stopping_) drop(device);
}

// Again and again: its I/O waits, and what is in the way, such as a dead runner's write that hangs
// in the storage, may end.
Task<> Runner::take_over_later(std::shared_ptr<ManagedDevice> device, SavedDevice saved) {
  for (Milliseconds pause = kFirstRetry; device->adoptable() && find(device->name()) == device;
       pause = std::min(2 * pause, kLongestRetry)) {
    const Completion<> never;
    co_await never.within(context_, pause);
    const std::string known = device->trouble();
    std::string trouble;
    try {
      const std::optional<abi::DevInfo> info = co_await look_for(saved);
      if (stopping_) co_return;
      if (!info.has_value()) {
        drop(device);
        co_return;
      }
      co_await take_over(device, saved, *info);
    } catch (const std::exception& e) {
      trouble = e.what();
    }
    if (!trouble.empty() && trouble != known)
      log(LogLevel::kError, device->name(), "is not adopted: %s", trouble.c_str());
  }
}

// A device that was not to outlive its server, or that had no disk when that died. It is forgotten
// once the kernel knows that it is to go, be it only when nobody has it open any more.
Task<> Runner::remove_dead(SavedDevice saved) {
  died_.insert(saved.name);
  try {
    co_await commands_.run(ublk::Command::stop(saved.id));
    try {
      co_await commands_.run(ublk::Command::del(saved.id), kDeadDeleteLimit);
    } catch (const ublk::Error& e) {
      if (e.error() != ETIMEDOUT) throw;
    }
    forget(saved);
    log(LogLevel::kInfo, saved.name, "has ended with its runner");
  } catch (const std::exception& e) {
    log(LogLevel::kWarning, saved.name, "has ended with its runner, and is left: %s", e.what());
  }
}

// Its name, too, before another device gets the number that the name stands for.
void Runner::forget(const SavedDevice& saved) {
  try {
    links_.remove(saved.name, abi::kBlockDevicePrefix + std::to_string(saved.id));
  } catch (const std::system_error& e) {
    log(LogLevel::kWarning, saved.name, "%s", e.what());
  }
  state_->remove(saved.name);
}

Task<> Runner::start_device(std::shared_ptr<ManagedDevice> device) {
  std::exception_ptr failure;
  try {
    co_await device->start(when_lost(device), died_.contains(device->name()));
    died_.erase(device->name());
  } catch (const std::exception& e) {
    log(LogLevel::kError, device->name(), "%s", e.what());
    failure = std::current_exception();
  }
  if (!failure) co_return;
  if (!stopping_) drop(device);
  std::rethrow_exception(failure);
}

std::function<void()> Runner::when_lost(const std::shared_ptr<ManagedDevice>& device) {
  return [this, weak = std::weak_ptr(device)] {
    if (const auto lost = weak.lock()) tasks_.start(end_lost(lost));
  };
}

Task<> Runner::end_lost(std::shared_ptr<ManagedDevice> device) {
  co_await device->stop();
  if (!stopping_ && device->state() == ManagedDevice::State::kGone) drop(device);
}

// --------------------------------------------------------------- operations --

void Runner::refuse_second(const std::string& name) const {
  if (find(name) != nullptr)
    throw RunnerError(RunnerError::Kind::kExists, "there is a device \"" + name + "\" already");
}

Task<std::string> Runner::add(DeviceConfig config, bool configured) {
  if (stopping_) throw RunnerError(RunnerError::Kind::kStopping, "the runner stops");
  refuse_second(config.name);
  const auto device = std::make_shared<ManagedDevice>(*services_, std::move(config), configured);
  devices_.push_back(device);
  changed();
  co_await start_device(device);
  changed();
  co_return link_path(device->name());
}

Task<> Runner::remove(std::string name, bool force) {
  const std::shared_ptr<ManagedDevice> device = get(name);
  // Its server may still write for those who use it, and a stop would cut a takeover short.
  if (device->state() == ManagedDevice::State::kLeft ||
      device->state() == ManagedDevice::State::kAdopting)
    throw std::runtime_error("it is not taken over yet" +
                             (device->trouble().empty() ? "" : ": " + device->trouble()));
  if (force)
    co_await device->stop();
  else
    co_await device->remove();
  if (device->state() != ManagedDevice::State::kGone)
    throw std::runtime_error(std::string("it can't be removed, it is ") + device->state_name());
  drop(device);
}

Task<> Runner::restart(std::string name) {
  const std::shared_ptr<ManagedDevice> device = get(name);
  co_await device->restart(device->config());
  changed();
}

Task<DeviceStatistics> Runner::statistics(std::string name) const {
  const std::shared_ptr<ManagedDevice> device = get(name);
  DeviceStatistics statistics = co_await device->statistics();
  co_return statistics;
}

void Runner::use_statistics(bool on) {
  if (std::exchange(services_->statistics, on) == on) return;
  for (const auto& device : devices_) device->use_statistics();
}

Task<> Runner::resize(std::string name, uint64_t size) {
  const std::shared_ptr<ManagedDevice> device = get(name);
  DeviceConfig config = device->config();
  const auto given = config.options.find("size");
  if (given == config.options.end())
    throw std::runtime_error("it has no \"size\" to change: its handler gives it");
  given->second.value = format_size(size);
  config.settings["size"] = given->second;
  co_await device->restart(std::move(config));
  changed();
}

// -------------------------------------------------------------------- stop --

void Runner::stop(std::function<void()> done) {
  stopping_ = true;
  for (const auto& device : devices_) device->interrupt();
  tasks_.start(stop_all(std::move(done)));
}

Task<> Runner::stop_all(std::function<void()> done) {
  if (threads_.has_value()) {
    co_await started_;
    std::vector<Task<>> stopping;
    for (const auto& device : devices_) stopping.push_back(device->end());
    co_await when_all(std::move(stopping));
    const bool left = std::any_of(devices_.begin(), devices_.end(), [](const auto& device) {
      return device->state() == ManagedDevice::State::kLeft;
    });
    co_await threads_->end(kThreadEndLimit, left);
  }
  context_.post(std::move(done));
}

std::vector<std::string> Runner::remaining() const {
  std::vector<std::string> names;
  for (const auto& device : devices_)
    if (device->state() != ManagedDevice::State::kNew &&
        device->state() != ManagedDevice::State::kGone &&
        device->state() != ManagedDevice::State::kLeft)
      names.push_back(device->name());
  return names;
}

}  // namespace ublk_runner
