// SPDX-License-Identifier: MIT
//
// From the devices that there are to those that a configuration asks for.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "config_keys.h"
#include "log.h"
#include "runner.h"

namespace ublk_runner {

namespace {

// The keys whose values differ.
struct Difference {
  std::set<std::string> taken_in;
  std::set<std::string> refused;
};

template <class Target>
Difference difference(const Target& a, const Target& b) {
  Difference keys;
  for (const Key<Target>& key : keys_of<Target>())
    if (!key.is_same(a, b))
      (key.reload == Reload::kTakesIn ? keys.taken_in : keys.refused).insert(key.option.name);
  return keys;
}

// With the handler's options. What they mean is known to the handler alone: their texts count.
Difference device_difference(const DeviceConfig& a, const DeviceConfig& b) {
  Difference keys = difference(a, b);
  const auto compare = [&keys](const DeviceConfig& one, const DeviceConfig& other) {
    for (const auto& [key, setting] : one.options) {
      const auto found = other.options.find(key);
      if (found == other.options.end() || found->second.value != setting.value)
        keys.taken_in.insert(key);
    }
  };
  compare(a, b);
  compare(b, a);
  return keys;
}

std::string join(const std::set<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

std::string to_string(const Change& change) {
  constexpr const char* kWords[] = {"set ", "add ", "remove ", "restart ", "refuse "};
  std::string text = kWords[static_cast<size_t>(change.kind)] + change.device;
  if (!change.detail.empty()) text += ": " + change.detail;
  return text;
}

std::vector<Change> Runner::changes(const Config& config) const {
  std::vector<Change> changes;
  const auto refuse = [&changes](const std::string& device, const std::string& why) {
    changes.push_back({Change::Kind::kRefuse, device, why, {}});
  };
  const Difference of_runner = difference(settings_, config);
  if (!of_runner.refused.empty())
    refuse("[runner]", join(of_runner.refused) + " is taken in when the runner is started again");
  if (!of_runner.taken_in.empty())
    changes.push_back({Change::Kind::kSet, "[runner]", join(of_runner.taken_in), {}});
  for (const auto& device : devices_) {
    const bool wanted = std::any_of(config.devices.begin(), config.devices.end(),
                                    [&](const auto& d) { return d.name == device->name(); });
    if (!wanted && device->configured())
      changes.push_back({Change::Kind::kRemove, device->name(), "", {}});
  }
  for (const DeviceConfig& wanted : config.devices) {
    const std::shared_ptr<ManagedDevice> device = find(wanted.name);
    if (device == nullptr) {
      changes.push_back({Change::Kind::kAdd, wanted.name, "", wanted});
      continue;
    }
    const Difference keys = device_difference(device->config(), wanted);
    if (!keys.refused.empty())
      refuse(wanted.name,
             join(keys.refused) + " can't change while the device lives: remove it first");
    else if (!keys.taken_in.empty() && config.changed_devices == ChangedDevices::kRefuse)
      refuse(wanted.name,
             join(keys.taken_in) + " would need a restart, and changed_devices = refuse");
    else if (!keys.taken_in.empty())
      changes.push_back({Change::Kind::kRestart, wanted.name, join(keys.taken_in), wanted});
  }
  return changes;
}

// They are in force by now: see Reloader::Events::has_read.
void Runner::take_live_settings(const Config& config) {
  for (const Key<Config>& key : keys_of<Config>())
    if (key.reload == Reload::kTakesIn) key.copy(settings_, config);
}

Task<> Runner::apply_change(Change change) {
  switch (change.kind) {
    case Change::Kind::kSet:
      break;
    case Change::Kind::kAdd: {
      co_await add(std::move(change.config), true);
      break;
    }
    case Change::Kind::kRemove:
      co_await remove(change.device, false);
      break;
    case Change::Kind::kRestart: {
      const std::shared_ptr<ManagedDevice> device = get(change.device);
      co_await device->restart(
          [&wanted = change.config](DeviceConfig& config) { config = std::move(wanted); });
      changed();
      break;
    }
    case Change::Kind::kRefuse:
      throw std::runtime_error("refused");
  }
}

Task<Runner::Applied> Runner::apply(Config config) {
  const std::vector<Change> wanted = changes(config);
  take_live_settings(config);
  for (const DeviceConfig& device : config.devices)
    if (const auto running = find(device.name)) running->set_configured(true);
  std::vector<Task<>> tasks;
  for (const Change& change : wanted) tasks.push_back(apply_change(change));
  std::vector<Outcome<void>> outcomes = co_await when_all(std::move(tasks));
  Applied applied;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const std::string text = to_string(wanted[i]);
    try {
      outcomes[i].take();
      log(LogLevel::kInfo, {}, "configuration: %s", text.c_str());
      applied.done.push_back(text);
    } catch (const std::exception& e) {
      const bool refused = wanted[i].kind == Change::Kind::kRefuse;
      const std::string failure = refused ? text : text + ": " + e.what();
      log(LogLevel::kError, {}, "configuration: %s", failure.c_str());
      applied.failed.push_back(failure);
    }
  }
  co_return applied;
}

}  // namespace ublk_runner
