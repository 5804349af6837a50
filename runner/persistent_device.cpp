// SPDX-License-Identifier: MIT
#include "persistent_device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <vector>

#include "key_file.h"
#include "runner_error.h"
#include "write_all.h"

namespace ublk_runner {

namespace {

constexpr mode_t kDirMode = 0755;
constexpr mode_t kFileMode = 0600;  // settings may be secrets

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// As read_key_file() reads it again: spaces at the ends would be cut off.
std::string escape_value(std::string_view value) {
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    const char c = value[i];
    if (c == '\\')
      text += "\\\\";
    else if (c == '\n')
      text += "\\n";
    else if (c == '\r')
      text += "\\r";
    else if (c == '\t')
      text += "\\t";
    else if (c == ' ' && (i == 0 || i + 1 == value.size()))
      text += "\\s";
    else
      text += c;
  }
  return text;
}

// As a device is written; `group` is "device NAME".
std::string section_of(const std::string& group, const std::map<std::string, Setting>& settings) {
  std::string text = '[' + group + "]\n";
  for (const auto& [key, setting] : settings)
    text += key + " = " + escape_value(setting.value) + '\n';
  return text;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void refuse_second_section(const std::string& config_file, const std::string& name) {
  for (const DeviceConfig& device : load_config(config_file).devices)
    if (device.name == name)
      throw RunnerError(RunnerError::Kind::kExists,
                        "the configuration has it already, at " + to_string(device.location));
}

[[noreturn]] void fail_existing(const std::string& path) {
  throw RunnerError(RunnerError::Kind::kExists, path + " exists already");
}

void write_file(const std::string& path, const std::string& text) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) fail(path);
  const ublk::UniqueFd fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!fd) fail(path);
  write_all(fd.get(), text, path);
  if (fsync(fd.get()) != 0) fail(path);
}

// Keys and values came from a caller, and might say something else once they are in a file.
void check_read_back(const std::string& path, const DeviceConfig& device) {
  std::vector<Finding> findings;
  const std::vector<KeyFileGroup> groups = read_key_file(path, findings);
  std::map<std::string, std::string> expected;
  for (const auto& [key, setting] : device.settings) expected[key] = setting.value;
  std::map<std::string, std::string> read;
  if (groups.size() == 1 && groups[0].name == "device " + device.name)
    for (const auto& [key, setting] : groups[0].settings) read[key] = setting.value;
  if (!findings.empty() || read != expected)
    throw std::runtime_error("a configuration file can't express these settings");
}

std::string path_of(const std::string& config_file, const std::string& name) {
  return config_file + ".d/" + name + ".conf";
}

void sync_parent(const std::string& file) {
  const std::filesystem::path parent = std::filesystem::path(file).parent_path();
  const std::string path = parent.empty() ? "." : parent.string();
  const ublk::UniqueFd dir(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || fsync(dir.get()) != 0) fail(path);
}

}  // namespace

PersistentDevice::PersistentDevice(const std::string& config_file, const DeviceConfig& device)
    : path_(path_of(config_file, device.name)),
      temporary_(config_file + ".d/." + device.name + ".conf.new") {
  if (device.name.starts_with('.'))
    throw std::runtime_error("a file whose name begins with '.' is not read as configuration");
  refuse_second_section(config_file, device.name);
  if (access(path_.c_str(), F_OK) == 0) fail_existing(path_);
  const std::string dir = config_file + ".d";
  if (mkdir(dir.c_str(), kDirMode) == 0)
    sync_parent(dir);
  else if (errno != EEXIST)
    fail("making " + dir);
  try {
    write_file(temporary_, section_of("device " + device.name, device.settings));
    check_read_back(temporary_, device);
  } catch (...) {
    unlink(temporary_.c_str());
    throw;
  }
}

PersistentDevice::~PersistentDevice() {
  if (!committed_) unlink(temporary_.c_str());
}

void PersistentDevice::commit() {
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) fail_existing(path_);
    fail(path_);
  }
  committed_ = true;
  try {
    sync_parent(path_);
  } catch (...) {
    unlink(path_.c_str());
    throw;
  }
}

std::string persistent_device_file(const std::string& config_file, const std::string& name) {
  const std::string path = path_of(config_file, name);
  if (access(path.c_str(), F_OK) != 0)
    throw std::runtime_error(name + " is not persistent: " + path + ": " +
                             std::generic_category().message(errno));
  std::vector<Finding> findings;
  const std::vector<KeyFileGroup> groups = read_key_file(path, findings);
  if (!findings.empty() || groups.size() != 1 || groups[0].name != "device " + name ||
      read_file(path) != section_of(groups[0].name, groups[0].settings))
    throw std::runtime_error(path + " holds something else than the section [device " + name +
                             "], as \"ublkctl add --persist\" writes it");
  return path;
}

void remove_persistent_device_file(const std::string& path) {
  if (unlink(path.c_str()) != 0) fail(path);
  sync_parent(path);
}

}  // namespace ublk_runner
