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
  // One that is stuck the kernel has still.
  if (!stopping_ && device->state() == ManagedDevice::State::kGone) {
    hanging_[device->name()] = device->handler_call();
    drop(device);
  }
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

// With each try another thread would hang in the handler.
void Runner::refuse_hanging(const std::string& name) {
  std::erase_if(hanging_, [](const auto& entry) { return entry.second.expired(); });
  if (hanging_.contains(name))
    throw std::runtime_error("its handler has not returned from an earlier open yet");
}

Task<std::string> Runner::add(DeviceConfig config, bool configured) {
  if (stopping_) throw RunnerError(RunnerError::Kind::kStopping, "the runner stops");
  refuse_second(config.name);
  refuse_hanging(config.name);
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
  co_await device->restart([](DeviceConfig&) {});
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
  co_await device->restart([size](DeviceConfig& config) {
    const auto given = config.options.find("size");
    if (given == config.options.end())
      throw std::runtime_error("it has no \"size\" to change: its handler gives it");
    given->second.value = format_size(size);
    config.settings["size"] = given->second;
  });
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
