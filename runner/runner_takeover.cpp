// SPDX-License-Identifier: MIT
//
// The devices of a runner before this one: found, taken over, or removed if they died with it.
#include <ublk/error.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <map>
#include <string>
#include <system_error>
#include <utility>

#include "log.h"
#include "runner.h"

namespace ublk_runner {

namespace {

namespace abi = ublk::abi;

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

}  // namespace ublk_runner
