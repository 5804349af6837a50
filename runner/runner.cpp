// SPDX-License-Identifier: MIT
#include "runner.h"

#include <exception>
#include <utility>

#include "log.h"

namespace ublk_runner {

namespace {

constexpr std::chrono::seconds kThreadEndLimit{5};

}  // namespace

Runner::Runner(RunnerOptions options, GMainContext* context)
    : context_(context),
      options_(std::move(options)),
      jobs_(std::make_shared<JobPool>(context_)),
      commands_(context_, options_.driver != nullptr ? *options_.driver : ublk::Driver::kernel()),
      links_(options_.link_dir) {}

Runner::~Runner() = default;

void Runner::start(const Config& config, std::function<void(StartSummary)> done) {
  pools_ = SharedPools::make(context_, config.buffer_memory);
  threads_.emplace(context_, pools_, config.io_threads);
  services_.emplace(
      DeviceServices{context_, jobs_, commands_, *threads_, pools_, links_, options_.handler_dir});
  for (const DeviceConfig& device : config.devices)
    devices_.push_back(std::make_shared<ManagedDevice>(*services_, device));
  tasks_.start(start_all(std::move(done)));
}

// Devices are side by side from their first step to the last; what bounds them is bounded where it
// happens: control commands (ControlCommands), blocking calls (JobPool).
Task<> Runner::start_all(std::function<void(StartSummary)> done) {
  std::vector<Task<>> starting;
  for (const auto& device : devices_) starting.push_back(start_device(*device));
  std::vector<Outcome<void>> outcomes = co_await when_all(std::move(starting));

  StartSummary summary;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    try {
      outcomes[i].take();
      ++summary.started;
    } catch (const std::exception& e) {
      summary.failed.push_back({devices_[i]->name(), e.what()});
    }
  }
  context_.post([done = std::move(done), summary = std::move(summary)] { done(summary); });
  started_.set();
}

Task<> Runner::start_device(ManagedDevice& device) {
  try {
    co_await device.start([this, &device] { remove_lost(device); });
  } catch (const std::exception& e) {
    log(LogLevel::kError, device.name(), "%s", e.what());
    throw;
  }
}

void Runner::remove_lost(ManagedDevice& device) {
  if (device.state() == ManagedDevice::State::kLive) tasks_.start(device.stop());
}

void Runner::stop(std::function<void()> done) {
  for (const auto& device : devices_) device->interrupt();
  tasks_.start(stop_all(std::move(done)));
}

Task<> Runner::stop_all(std::function<void()> done) {
  if (threads_.has_value()) {
    co_await started_;
    std::vector<Task<>> stopping;
    for (const auto& device : devices_) stopping.push_back(device->stop());
    co_await when_all(std::move(stopping));
    co_await threads_->end(kThreadEndLimit);
  }
  context_.post(std::move(done));
}

std::vector<std::string> Runner::remaining() const {
  std::vector<std::string> names;
  for (const auto& device : devices_)
    if (device->state() != ManagedDevice::State::kNew &&
        device->state() != ManagedDevice::State::kGone)
      names.push_back(device->name());
  return names;
}

}  // namespace ublk_runner
