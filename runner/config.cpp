// SPDX-License-Identifier: MIT
#include "config.h"

#include <glib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <tuple>
#include <utility>

#include "config_keys.h"
#include "key_file.h"
#include "option_value.h"

namespace ublk_runner {

namespace {

constexpr size_t kMaxName = 64;

bool has(std::span<const ublk_option> keys, std::string_view name) {
  return std::ranges::any_of(keys, [name](const ublk_option& key) { return name == key.name; });
}

// Collects what all files say.
class Reader {
 public:
  explicit Reader(std::vector<Finding>& findings) : findings_(findings) {}

  void read(const std::string& path) {
    has_runner_group_ = false;
    for (const KeyFileGroup& group : read_key_file(path, findings_)) read_group(group);
  }
  Config take() { return std::move(config_); }

  // A [device NAME] group.
  void read_device(const KeyFileGroup& group, const std::string& name);

 private:
  void report(const Location& location, std::string text) {
    add_finding(findings_, location, std::move(text));
  }

  void read_group(const KeyFileGroup& group) {
    const std::string_view name = group.name;
    const std::string_view word = name.substr(0, name.find_first_of(kBlanks));
    const size_t argument = std::min(name.find_first_not_of(kBlanks, word.size()), name.size());
    if (name == "runner")
      read_runner(group);
    else if (word == "device")
      read_device(group, std::string(name.substr(argument)));
    else
      report(group.location, "unknown group, expected [runner] or [device NAME]");
  }

  void read_runner(const KeyFileGroup& group) {
    if (std::exchange(has_runner_group_, true))
      report(group.location, "[runner] is given twice in this file");
    for (const auto& [key, setting] : group.settings) {
      const auto [first, is_new] = runner_keys_.try_emplace(key, setting.location);
      if (!is_new)
        report(setting.location,
               "key \"" + key + "\" is given twice, first at " + to_string(first->second));
      if (!has(runner_keys(), key)) report_unknown(key, setting.location);
    }
    read_keys(group, config_);
  }

  void report_unknown(const std::string& key, const Location& location) {
    std::vector<std::string_view> names;
    for (const ublk_option& known : runner_keys()) names.emplace_back(known.name);
    const std::string_view nearest = nearest_name(key, names);
    report(location, "unknown key \"" + key + "\" of [runner], expected " +
                         (nearest.empty() ? join_words(names) : std::string(nearest)));
  }

  template <class Target>
  void read_keys(const KeyFileGroup& group, Target& target) {
    for (const Key<Target>& key : keys_of<Target>()) {
      const auto setting = group.settings.find(key.option.name);
      if (setting != group.settings.end())
        set(key, setting->second, target);
      else if ((key.option.flags & UBLK_OPTION_REQUIRED) &&
               !group.unreadable.contains(key.option.name))
        report(group.location, '[' + group.name + "] has no \"" + key.option.name + '"');
    }
  }

  template <class Target>
  void set(const Key<Target>& key, const Setting& setting, Target& target) {
    try {
      key.set(target, parse_option_value(key.option, setting.value));
    } catch (const std::invalid_argument& e) {
      report(setting.location, std::string(key.option.name) + ": " + e.what());
    }
  }

  static constexpr std::string_view kBlanks = " \t";

  std::vector<Finding>& findings_;
  Config config_;
  bool has_runner_group_ = false;  // in the file that is being read
  std::map<std::string, Location> runner_keys_;
  std::map<std::string, Location> devices_;
};

void Reader::read_device(const KeyFileGroup& group, const std::string& name) {
  DeviceConfig device;
  device.name = name;
  device.location = group.location;
  if (!is_device_name(name)) {
    report(group.location,
           "expected [device NAME] with a name of at most 64 letters, digits, '.', '_' and '-', "
           "and neither \".\" nor \"..\"");
  } else if (const auto [first, is_new] = devices_.try_emplace(name, group.location); !is_new) {
    report(group.location,
           "device \"" + name + "\" is given twice, first at " + to_string(first->second));
  }
  read_keys(group, device);
  device.settings = group.settings;
  for (const auto& [key, setting] : group.settings) {
    if (key == "handler") device.handler_location = setting.location;
    if (!has(device_keys(), key)) device.options.emplace(key, setting);
  }
  if (!device.handler.empty()) config_.devices.push_back(std::move(device));
}

// The *.conf files of the folder by name; none if there is no such folder.
std::vector<std::string> files_of(const std::string& dir, std::vector<Finding>& findings) {
  std::vector<std::string> files;
  try {
    for (const auto& entry : std::filesystem::directory_iterator(dir)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".conf") && !name.starts_with('.')) files.push_back(entry.path().string());
    }
  } catch (const std::filesystem::filesystem_error& e) {
    if (e.code() != std::errc::no_such_file_or_directory)
      add_finding(findings, {dir, 0}, "cannot be read: " + e.code().message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string all_texts(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    if (!text.empty()) text += '\n';
    text += to_string(finding.location) + ": " + finding.text;
  }
  return text;
}

}  // namespace

std::string to_string(const Location& location) {
  return location.line == 0 ? location.file : location.file + ':' + std::to_string(location.line);
}

void add_finding(std::vector<Finding>& findings, const Location& location,
                 const std::string& text) {
  findings.push_back({location, escape_text(text)});
}

void sort_findings(std::vector<Finding>& findings) {
  std::stable_sort(findings.begin(), findings.end(), [](const Finding& a, const Finding& b) {
    return std::tie(a.location.file, a.location.line) < std::tie(b.location.file, b.location.line);
  });
}

ConfigError::ConfigError(std::vector<Finding> findings)
    : std::runtime_error(all_texts(findings)), findings_(std::move(findings)) {}

Config load_config(const std::string& file) {
  std::vector<Finding> findings;
  Config config = load_config(file, findings);
  if (!findings.empty()) throw ConfigError(std::move(findings));
  return config;
}

Config load_config(const std::string& file, std::vector<Finding>& findings) {
  Reader reader(findings);
  reader.read(file);
  for (const std::string& path : files_of(file + ".d", findings)) reader.read(path);
  sort_findings(findings);
  return reader.take();
}

DeviceConfig device_from_settings(const std::string& name,
                                  const std::map<std::string, Setting>& settings) {
  std::vector<Finding> findings;
  Reader reader(findings);
  KeyFileGroup group;
  group.name = "device " + name;
  group.location = {group.name, 0};
  group.settings = settings;
  reader.read_device(group, name);
  if (!findings.empty()) throw ConfigError(std::move(findings));
  return std::move(reader.take().devices.front());
}

bool is_device_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return g_ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

bool is_handler_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && g_ascii_islower(name.front()) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return g_ascii_islower(c) || g_ascii_isdigit(c) || c == '_' || c == '-';
         });
}

}  // namespace ublk_runner
