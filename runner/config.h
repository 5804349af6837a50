// SPDX-License-Identifier: MIT
//
// The configuration: /etc/ublk-runner.conf and the *.conf files of the folder
// /etc/ublk-runner.conf.d, which are read after it in the order of their names, byte by byte.
//
//   [runner]
//   io_threads = 4
//
//   [device disk0]
//   handler = file
//   path = /srv/disk0.img
//
// The files are GLib key files, read strictly: what is unknown, ill-typed, out of range or said
// twice is an error with its file and line, and all of them are found in one go. A group is given
// once, except that each file may have a [runner] of its own, with other keys. The options of a
// device's handler are taken as they are here and checked against the handler's table in options.h.
//
// Everything here may be used by any thread; nothing is shared.
#ifndef UBLK_RUNNER_CONFIG_H
#define UBLK_RUNNER_CONFIG_H

#include <ublk/handler.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "batch_choice.h"
#include "buffer_choice.h"
#include "log.h"

namespace ublk_runner {

// A place in a file. Line 0 is the file as a whole.
struct Location {
  std::string file;
  int line = 0;
};
std::string to_string(const Location& location);  // "file:line", or "file"

// One "key = value" as it stands in the file, escapes resolved.
struct Setting {
  std::string value;
  Location location;  // of the key
};

// What becomes of the device when the runner dies. The words of the key "recovery", in their order.
enum class RecoveryOption : uint8_t { kReissue, kFailIo, kNone };

// What happens to a request that exceeds io_timeout. The words of the key "io_timeout_action".
enum class TimeoutAction : uint8_t { kWarn, kFail };

struct DeviceConfig {
  std::string name;     // is_device_name()
  std::string handler;  // NAME of handler_NAME.so, is_handler_name()
  uint32_t queues = 1;  // 0: automatic
  uint32_t queue_depth = 128;
  uint32_t max_io_size = 512 << 10;  // bytes, a multiple of 4096
  bool read_only = false;
  uint32_t workers = 0;  // threads at a time, if its handler works on them; 0: as the handler says
  BufferOption buffer = BufferOption::kAuto;
  ZeroCopyOption zero_copy = ZeroCopyOption::kAuto;
  BatchOption batch_io = BatchOption::kAuto;
  RecoveryOption recovery = RecoveryOption::kReissue;
  std::chrono::seconds recovery_timeout{60};
  std::chrono::milliseconds io_timeout{0};  // 0: none
  TimeoutAction io_timeout_action = TimeoutAction::kWarn;
  std::map<std::string, Setting> settings;  // all of its keys, as they were given
  std::map<std::string, Setting> options;   // those of the handler, unparsed
  Location location;                        // of the group
  Location handler_location;                // of the key "handler"
};

// What a reload does with devices whose options have changed. The words of the key
// "changed_devices", in their order.
enum class ChangedDevices : uint8_t { kRestart, kRefuse };

struct Config {
  uint32_t io_threads = 0;                     // 0: automatic
  uint32_t spin = 0;                           // microseconds
  std::string handler_dir = UBLK_HANDLER_DIR;  // absolute
  LogLevel log_level = LogLevel::kInfo;
  uint64_t buffer_memory = 512 << 20;  // bytes
  bool watch = true;                   // take in changed files by itself
  ChangedDevices changed_devices = ChangedDevices::kRestart;
  bool lock_memory = true;  // mlockall()
  bool statistics = false;
  std::string statistics_file;  // absolute; empty: none
  std::chrono::seconds statistics_interval{15};
  std::vector<DeviceConfig> devices;  // in the order of the files
};

// What is wrong at one place: "expected ..., not ...".
struct Finding {
  Location location;
  std::string text;
};

// What a terminal would obey in the text, a name from a file, is escaped.
void add_finding(std::vector<Finding>& findings, const Location& location, const std::string& text);
// By file and line. A file comes before those of its .d folder.
void sort_findings(std::vector<Finding>& findings);

// The configuration has errors. what() has all of them, one "file:line: text" a line.
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(std::vector<Finding> findings);  // at least one
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  std::vector<Finding> findings_;
};

// Reads `file`, which must exist, and `file`.d/*.conf, if that folder exists. Throws ConfigError.
Config load_config(const std::string& file);
// The same, for one who looks for errors elsewhere as well: appends what is wrong to `findings` and
// returns what is right, with each device that has a handler, so that its options can be checked
// too.
Config load_config(const std::string& file, std::vector<Finding>& findings);

// One device of such settings, not from a file: what [device `name`] with them would be. Throws
// ConfigError.
DeviceConfig device_from_settings(const std::string& name,
                                  const std::map<std::string, Setting>& settings);

// The keys of [runner], and those of [device NAME] that are the runner's own, as tables like those
// that handlers have, so the same rules hold. The man page and the sample file follow from them. A
// device gets the handler's options beside them, which therefore have other names. More of each key
// is in config_keys.h.
std::span<const ublk_option> runner_keys();
std::span<const ublk_option> device_keys();

// 1 to 64 of A-Z a-z 0-9 . _ -, and neither "." nor "..": the name becomes that of a file.
bool is_device_name(std::string_view name);
// [a-z][a-z0-9_-]*, at most 64: the name becomes part of a file's.
bool is_handler_name(std::string_view name);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_CONFIG_H
