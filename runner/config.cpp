// SPDX-License-Identifier: MIT
#include "config.h"

#include <glib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <tuple>
#include <ublk/handler.hpp>
#include <utility>

#include "key_file.h"
#include "option_value.h"

namespace ublk_runner {

namespace {

constexpr size_t kMaxName = 64;
constexpr uint32_t kIoBlock = 4096;  // max_io_size is a multiple of it

// A key and where its value goes. `set` throws std::invalid_argument if the value is wrong in a way
// that the table can't tell.
template <class Target>
struct Key {
  ublk_option option;
  void (*set)(Target& target, const ublk_option_value& value);
};

constexpr std::array kRunnerKeys = {
    Key<Config>{ublk::integer_option(
                    "io_threads",
                    "Threads that serve I/O, shared by all devices; 0: half as many as there "
                    "are CPUs, from 1 to 16.",
                    {.default_value = "0", .maximum = 256}),
                [](Config& c, const ublk_option_value& v) {
                  c.io_threads = static_cast<uint32_t>(v.number);
                }},
    Key<Config>{
        ublk::integer_option(
            "spin",
            "Microseconds for which a thread that serves I/O looks for more before it "
            "sleeps; 0: never.",
            {.default_value = "0", .maximum = 10000}),
        [](Config& c, const ublk_option_value& v) { c.spin = static_cast<uint32_t>(v.number); }},
    Key<Config>{ublk::path_option("handler_dir", "Where handlers are looked for.",
                                  {.default_value = UBLK_HANDLER_DIR}),
                [](Config& c, const ublk_option_value& v) { c.handler_dir = v.text; }},
    Key<Config>{ublk::choice_option("log_level", "error|warning|info|debug",
                                    "The least that is logged.", {.default_value = "info"}),
                [](Config& c, const ublk_option_value& v) {
                  c.log_level = static_cast<LogLevel>(v.number);
                }},
    Key<Config>{
        ublk::size_option(
            "buffer_memory", "Memory for the data of requests at most, shared by all devices.",
            {.default_value = "512M", .minimum = 1 << 20, .maximum = uint64_t{1} << 40}),
        [](Config& c, const ublk_option_value& v) { c.buffer_memory = v.number; }},
    Key<Config>{
        ublk::bool_option(
            "watch", "Whether changes of the configuration's files are taken in by themselves.",
            {.default_value = "true"}),
        [](Config& c, const ublk_option_value& v) { c.watch = v.boolean != 0; }},
    Key<Config>{ublk::choice_option(
                    "changed_devices", "restart|refuse",
                    "What a reload does with devices whose options have changed: holds their "
                    "I/O and opens their handler anew, or leaves them as they are.",
                    {.default_value = "restart"}),
                [](Config& c, const ublk_option_value& v) { c.restart_changed = v.number == 0; }},
    Key<Config>{
        ublk::bool_option("lock_memory",
                          "Whether the memory that the runner and its handlers use stays in RAM.",
                          {.default_value = "true"}),
        [](Config& c, const ublk_option_value& v) { c.lock_memory = v.boolean != 0; }},
    Key<Config>{ublk::bool_option("statistics",
                                  "Whether requests are counted and timed; it takes some CPU.",
                                  {.default_value = "false"}),
                [](Config& c, const ublk_option_value& v) { c.statistics = v.boolean != 0; }},
    Key<Config>{ublk::path_option("statistics_file",
                                  "A file to keep the statistics in, as text for Prometheus."),
                [](Config& c, const ublk_option_value& v) { c.statistics_file = v.text; }},
    Key<Config>{ublk::integer_option("statistics_interval",
                                     "Seconds between two versions of the statistics_file.",
                                     {.default_value = "15", .minimum = 1, .maximum = 3600}),
                [](Config& c, const ublk_option_value& v) {
                  c.statistics_interval = std::chrono::seconds(v.number);
                }},
};

void set_handler(DeviceConfig& device, const ublk_option_value& value) {
  if (!is_handler_name(value.text))
    throw std::invalid_argument(
        "expected the name of a handler: at most 64 lower-case letters, digits, '_' and '-', "
        "beginning with a letter");
  device.handler = value.text;
}

void set_max_io_size(DeviceConfig& device, const ublk_option_value& value) {
  if (value.number % kIoBlock != 0)
    throw std::invalid_argument("expected a multiple of " + format_size(kIoBlock) + ", not \"" +
                                value.text + '"');
  device.max_io_size = static_cast<uint32_t>(value.number);
}

constexpr std::array kDeviceKeys = {
    Key<DeviceConfig>{
        ublk::string_option("handler", "NAME of the handler_NAME.so that serves the device.",
                            {.required = true}),
        set_handler},
    Key<DeviceConfig>{
        ublk::integer_option("queues",
                             "Hardware queues; the kernel makes no more than there are CPUs. 0: "
                             "one for each thread that serves I/O, at most 4.",
                             {.default_value = "1", .maximum = 4096}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.queues = static_cast<uint32_t>(v.number);
        }},
    Key<DeviceConfig>{
        ublk::integer_option("queue_depth", "Requests that each queue has in flight at most.",
                             {.default_value = "128", .minimum = 1, .maximum = 4096}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.queue_depth = static_cast<uint32_t>(v.number);
        }},
    Key<DeviceConfig>{
        ublk::size_option("max_io_size",
                          "The largest request, a multiple of 4K; the kernel splits larger "
                          "I/O.",
                          {.default_value = "512K", .minimum = kIoBlock, .maximum = 32 << 20}),
        set_max_io_size},
    Key<DeviceConfig>{
        ublk::bool_option("read_only", "Whether the device refuses writes.",
                          {.default_value = "false"}),
        [](DeviceConfig& d, const ublk_option_value& v) { d.read_only = v.boolean != 0; }},
    Key<DeviceConfig>{
        ublk::integer_option("workers",
                             "Threads that serve the device at once at most, if its handler "
                             "works on threads; 0: the handler's default, usually 16.",
                             {.default_value = "0", .maximum = 1024}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.workers = static_cast<uint32_t>(v.number);
        }},
    Key<DeviceConfig>{ublk::choice_option("buffer", "auto|copy|get-data|user-copy",
                                          "How the data of requests gets to the handler and back.",
                                          {.default_value = "auto"}),
                      [](DeviceConfig& d, const ublk_option_value& v) {
                        d.buffer = static_cast<BufferOption>(v.number);
                      }},
    Key<DeviceConfig>{
        ublk::choice_option("zero_copy", "auto|on|off",
                            "Whether the storage is read and written right from and to the "
                            "memory of whoever uses the device.",
                            {.default_value = "auto"}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.zero_copy = static_cast<ZeroCopyOption>(v.number);
        }},
    Key<DeviceConfig>{
        ublk::choice_option("batch_io", "auto|on|off",
                            "Whether requests are fetched and completed many at a time.",
                            {.default_value = "auto"}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.batch_io = static_cast<BatchOption>(v.number);
        }},
    Key<DeviceConfig>{
        ublk::choice_option("recovery", "reissue|fail-io|none",
                            "What becomes of the device's I/O when the runner dies: it waits for "
                            "the next one, fails until then, or ends with the device.",
                            {.default_value = "reissue"}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.recovery = static_cast<RecoveryOption>(v.number);
        }},
    Key<DeviceConfig>{
        ublk::integer_option("recovery_timeout",
                             "Seconds that I/O waits for a handler that can't be opened, after "
                             "which it fails until the handler can; 0: for ever.",
                             {.default_value = "60", .maximum = 86400}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.recovery_timeout = std::chrono::seconds(v.number);
        }},
    Key<DeviceConfig>{
        ublk::integer_option("io_timeout",
                             "Seconds that the handler may take for a request, or a request wait "
                             "for a worker or a buffer; 0: any time.",
                             {.default_value = "0", .minimum = 0, .maximum = 86400}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.io_timeout = std::chrono::seconds(v.number);
        }},
    Key<DeviceConfig>{
        ublk::choice_option("io_timeout_action", "warn|fail",
                            "What happens to a request that takes longer than io_timeout.",
                            {.default_value = "warn"}),
        [](DeviceConfig& d, const ublk_option_value& v) {
          d.io_timeout_action = static_cast<TimeoutAction>(v.number);
        }},
};

template <class Target, size_t N>
constexpr std::array<ublk_option, N> options_of(const std::array<Key<Target>, N>& keys) {
  std::array<ublk_option, N> options{};
  for (size_t i = 0; i < N; ++i) options[i] = keys[i].option;
  return options;
}

template <class Target, size_t N>
std::vector<std::string_view> names_of(const std::array<Key<Target>, N>& keys) {
  std::vector<std::string_view> names;
  names.reserve(N);
  for (const Key<Target>& key : keys) names.emplace_back(key.option.name);
  return names;
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
      if (find(kRunnerKeys, key) == nullptr) report_unknown(key, setting.location);
    }
    read_keys(group, kRunnerKeys, config_);
  }

  void report_unknown(const std::string& key, const Location& location) {
    const std::vector<std::string_view> names = names_of(kRunnerKeys);
    const std::string_view nearest = nearest_name(key, names);
    report(location, "unknown key \"" + key + "\" of [runner], expected " +
                         (nearest.empty() ? join_words(names) : std::string(nearest)));
  }

  template <class Target, size_t N>
  static const Key<Target>* find(const std::array<Key<Target>, N>& keys, std::string_view name) {
    const auto key = std::find_if(keys.begin(), keys.end(),
                                  [&](const Key<Target>& k) { return name == k.option.name; });
    return key == keys.end() ? nullptr : &*key;
  }

  template <class Target, size_t N>
  void read_keys(const KeyFileGroup& group, const std::array<Key<Target>, N>& keys,
                 Target& target) {
    for (const Key<Target>& key : keys) {
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
  read_keys(group, kDeviceKeys, device);
  device.settings = group.settings;
  for (const auto& [key, setting] : group.settings) {
    if (key == "handler") device.handler_location = setting.location;
    if (find(kDeviceKeys, key) == nullptr) device.options.emplace(key, setting);
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

std::span<const ublk_option> runner_keys() {
  static constexpr auto kOptions = options_of(kRunnerKeys);
  return kOptions;
}

std::span<const ublk_option> device_keys() {
  static constexpr auto kOptions = options_of(kDeviceKeys);
  return kOptions;
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
