// SPDX-License-Identifier: MIT
//
// From the devices that there are to those that a configuration asks for.
#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "log.h"
#include "option_value.h"
#include "runner.h"

namespace ublk_runner {

namespace {

// Keys that the kernel takes when it makes a device, and never again.
constexpr std::array<std::string_view, 9> kFixedKeys = {"batch_io",    "buffer",      "handler",
                                                        "max_io_size", "queue_depth", "queues",
                                                        "read_only",   "recovery",    "zero_copy"};

bool is_fixed(const std::string& key) {
  return std::find(kFixedKeys.begin(), kFixedKeys.end(), key) != kFixedKeys.end();
}

// The text of a key; of one that the device doesn't have the default, if the key is the runner's
// own.
std::optional<std::string> text_of(const DeviceConfig& device, const std::string& key,
                                   const ublk_option* own) {
  if (const auto set = device.settings.find(key); set != device.settings.end())
    return set->second.value;
  if (own == nullptr || own->default_value == nullptr) return std::nullopt;
  return own->default_value;
}

// "1M" is "1024K", and a default that only one has written out is the same, too. What a handler's
// options mean is known to the handler alone.
bool have_same(const DeviceConfig& a, const DeviceConfig& b, const std::string& key) {
  const std::span<const ublk_option> keys = device_keys();
  const auto found = std::ranges::find_if(keys, [&](const auto& k) { return key == k.name; });
  const ublk_option* own = found == keys.end() ? nullptr : &*found;
  const std::optional<std::string> left = text_of(a, key, own);
  const std::optional<std::string> right = text_of(b, key, own);
  if (own == nullptr || !left || !right || own->type == UBLK_OPTION_STRING) return left == right;
  const ublk_option_value one = parse_option_value(*own, *left);
  const ublk_option_value other = parse_option_value(*own, *right);
  return one.number == other.number && one.boolean == other.boolean;
}

std::set<std::string> different_keys(const DeviceConfig& a, const DeviceConfig& b) {
  std::set<std::string> keys;
  const auto compare = [&keys](const DeviceConfig& one, const DeviceConfig& other) {
    for (const auto& [key, setting] : one.settings)
      if (!have_same(one, other, key)) keys.insert(key);
  };
  compare(a, b);
  compare(b, a);
  return keys;
}

// Keys of [runner] that only a start takes in.
std::set<std::string> different_fixed_keys(const Config& a, const Config& b) {
  std::set<std::string> keys;
  if (a.io_threads != b.io_threads) keys.insert("io_threads");
  if (a.spin != b.spin) keys.insert("spin");
  if (a.handler_dir != b.handler_dir) keys.insert("handler_dir");
  if (a.buffer_memory != b.buffer_memory) keys.insert("buffer_memory");
  if (a.lock_memory != b.lock_memory) keys.insert("lock_memory");
  return keys;
}

// And those that a reload takes in.
std::set<std::string> different_live_keys(const Config& a, const Config& b) {
  std::set<std::string> keys;
  if (a.log_level != b.log_level) keys.insert("log_level");
  if (a.watch != b.watch) keys.insert("watch");
  if (a.restart_changed != b.restart_changed) keys.insert("changed_devices");
  if (a.statistics != b.statistics) keys.insert("statistics");
  if (a.statistics_file != b.statistics_file) keys.insert("statistics_file");
  if (a.statistics_interval != b.statistics_interval) keys.insert("statistics_interval");
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
  const std::set<std::string> fixed_of_runner = different_fixed_keys(settings_, config);
  if (!fixed_of_runner.empty())
    changes.push_back({Change::Kind::kRefuse,
                       "[runner]",
                       join(fixed_of_runner) + " is taken in when the runner is started again",
                       {}});
  const std::set<std::string> live_of_runner = different_live_keys(settings_, config);
  if (!live_of_runner.empty())
    changes.push_back({Change::Kind::kSet, "[runner]", join(live_of_runner), {}});
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
    const std::set<std::string> keys = different_keys(device->config(), wanted);
    if (keys.empty()) continue;
    std::set<std::string> fixed;
    for (const std::string& key : keys)
      if (is_fixed(key)) fixed.insert(key);
    if (!fixed.empty())
      changes.push_back({Change::Kind::kRefuse,
                         wanted.name,
                         join(fixed) + " can't change while the device lives: remove it first",
                         {}});
    else if (!config.restart_changed)
      changes.push_back({Change::Kind::kRefuse,
                         wanted.name,
                         join(keys) + " would need a restart, and changed_devices = refuse",
                         {}});
    else
      changes.push_back({Change::Kind::kRestart, wanted.name, join(keys), wanted});
  }
  return changes;
}

// They are in force by now: see Reloader::Events::has_read.
void Runner::take_live_settings(const Config& config) {
  settings_.log_level = config.log_level;
  settings_.watch = config.watch;
  settings_.restart_changed = config.restart_changed;
  settings_.statistics = config.statistics;
  settings_.statistics_file = config.statistics_file;
  settings_.statistics_interval = config.statistics_interval;
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
      co_await device->restart(std::move(change.config));
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
