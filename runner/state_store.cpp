// SPDX-License-Identifier: MIT
#include "state_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "config.h"
#include "write_all.h"

namespace ublk_runner {

namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr unsigned kVersion = 1;
constexpr mode_t kDirMode = 0700;
constexpr mode_t kFileMode = 0600;
constexpr off_t kMaxFileSize = 1 << 20;
constexpr const char* kSuffix = ".json";
constexpr const char* kLockName = "lock";
// '#' is in no device name, so such a file is that of no device.
constexpr const char* kTemporaryPrefix = ".#";
// A killed runner's descriptors are closed once its I/O is over.
constexpr milliseconds kLockLimit{10'000};
constexpr milliseconds kLockInterval{50};

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

struct CloseDir {
  void operator()(DIR* dir) const { closedir(dir); }
};

// The device of a file's name; nullopt: the file is none of ours.
std::optional<std::string> device_of(std::string_view file) {
  if (!file.ends_with(kSuffix)) return std::nullopt;
  file.remove_suffix(std::string_view(kSuffix).size());
  if (!is_device_name(file)) return std::nullopt;
  return std::string(file);
}

std::vector<std::string> names_in(int dir_fd, const std::string& dir_name) {
  const int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, CloseDir> dir(copy < 0 ? nullptr : fdopendir(copy));
  if (dir == nullptr) fail(errno, dir_name);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir.get())) names.emplace_back(entry->d_name);
  return names;
}

// Of a runner, or left of one that was killed.
bool is_own_name(std::string_view file) {
  if (file == "." || file == ".." || file == kLockName || file == kBusSocketName) return true;
  if (file.starts_with(kTemporaryPrefix))
    file.remove_prefix(std::string_view(kTemporaryPrefix).size());
  return device_of(file).has_value();
}

bool is_mount_point(int dir) {
  struct statx status {};
  return statx(dir, "", AT_EMPTY_PATH, STATX_TYPE, &status) != 0 ||
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

// One that was there may be of others, /tmp say, and closing it would break more than this runner.
void close_to_others(int fd, mode_t mode, const std::string& dir) {
  if ((mode & 0077) == 0) return;
  const std::vector<std::string> names = names_in(fd, dir);
  if ((mode & S_ISVTX) != 0 || is_mount_point(fd) || !std::ranges::all_of(names, is_own_name)) {
    char octal[16];
    snprintf(octal, sizeof(octal), "%04o", mode & 07777);
    throw std::runtime_error(dir + " is open to others (mode " + octal +
                             "), expected a folder of its own");
  }
  if (fchmod(fd, kDirMode) != 0) fail(errno, "setting the mode of " + dir);
}

ublk::UniqueFd open_dir(const std::string& dir) {
  if (mkdir(dir.c_str(), kDirMode) != 0 && errno != EEXIST) fail(errno, "making " + dir);
  ublk::UniqueFd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) fail(errno == ELOOP ? ENOTDIR : errno, dir);
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) fail(errno, dir);
  if (status.st_uid != geteuid())
    throw std::runtime_error(dir + " belongs to user " + std::to_string(status.st_uid) +
                             ", expected " + std::to_string(geteuid()));
  close_to_others(fd.get(), status.st_mode, dir);
  return fd;
}

std::string read_all(int fd, size_t limit) {
  std::string text(limit, '\0');
  size_t size = 0;
  for (;;) {
    const ssize_t n = read(fd, text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(errno, "read");
    if (n == 0 || size == limit) break;
    size += static_cast<size_t>(n);
  }
  text.resize(size);
  return text;
}

ublk::UniqueFd take_lock(int dir, const std::string& path) {
  ublk::UniqueFd fd(openat(dir, kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!fd) fail(errno, path);
  for (milliseconds waited{0}; flock(fd.get(), LOCK_EX | LOCK_NB) != 0; waited += kLockInterval) {
    if (errno != EWOULDBLOCK && errno != EINTR) fail(errno, "locking " + path);
    if (waited >= kLockLimit) {
      const std::string pid = read_all(fd.get(), 16);
      throw StateLocked(path + ": another ublk-runner is running" +
                        (pid.empty() ? "" : ", process " + pid));
    }
    poll(nullptr, 0, static_cast<int>(kLockInterval.count()));
  }
  if (ftruncate(fd.get(), 0) != 0) fail(errno, path);
  write_all(fd.get(), std::to_string(getpid()), path);
  return fd;
}

json to_json(const SavedDevice& device) {
  return {{"version", kVersion},
          {"name", device.name},
          {"id", device.id},
          {"cookie", device.cookie},
          {"settings", device.settings},
          {"configured", device.configured},
          {"held_since_ns", device.held_since.count()}};
}

// The library's own conversion would take -1 for a large number, and that of 1e300 isn't defined.
uint64_t whole_number(const json& value, const char* key, uint64_t largest) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > largest)
    throw std::runtime_error(std::string(key) + ": expected a whole number from 0 to " +
                             std::to_string(largest));
  return value.get<uint64_t>();
}

// Throws json::exception or std::runtime_error.
SavedDevice from_json(const json& file, const std::string& name) {
  const auto number = [&](const char* key, uint64_t largest) {
    return whole_number(file.at(key), key, largest);
  };
  const uint64_t version = number("version", UINT64_MAX);
  if (version > kVersion)
    throw std::runtime_error("is of version " + std::to_string(version) + ", this release knows " +
                             std::to_string(kVersion) + ": its device is left alone");
  SavedDevice device;
  device.name = file.at("name").get<std::string>();
  if (device.name != name) throw std::runtime_error("is of a device of another name");
  device.id = static_cast<uint32_t>(number("id", UINT32_MAX - 1));
  device.cookie = number("cookie", UINT64_MAX);
  device.settings = file.at("settings").get<std::map<std::string, std::string>>();
  device.configured = file.value("configured", true);
  // For the log alone: no device is left alone because of it.
  const json held_since = file.value("held_since_ns", json());
  if (held_since.is_number_unsigned() && held_since.get<uint64_t>() <= INT64_MAX)
    device.held_since = std::chrono::nanoseconds(held_since.get<uint64_t>());
  return device;
}

SavedDevice load_file(int dir, const std::string& file, const std::string& name) {
  const ublk::UniqueFd fd(
      openat(dir, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd) throw std::runtime_error(errno == ELOOP ? "is a symbolic link" : strerrordesc_np(errno));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) throw std::runtime_error(strerrordesc_np(errno));
  if (!S_ISREG(status.st_mode)) throw std::runtime_error("is no regular file");
  if (status.st_uid != geteuid() || (status.st_mode & 0022) != 0)
    throw std::runtime_error("others may have written it");
  if (status.st_size > kMaxFileSize) throw std::runtime_error("is too long");
  return from_json(json::parse(read_all(fd.get(), static_cast<size_t>(status.st_size))), name);
}

// `dir`: open, and its name.
StateStore::Contents load_all(int dir_fd, const std::string& dir_name) {
  StateStore::Contents contents;
  std::vector<std::string> names;
  for (const std::string& file : names_in(dir_fd, dir_name))
    if (const auto name = device_of(file)) names.push_back(*name);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string file = name + kSuffix;
    try {
      contents.devices.push_back(load_file(dir_fd, file, name));
    } catch (const json::exception& e) {
      // The library's text shows parts of the file, which may hold secrets.
      contents.findings.push_back(dir_name + '/' + file + ": can't be read, JSON error " +
                                  std::to_string(e.id));
    } catch (const std::exception& e) {
      contents.findings.push_back(dir_name + '/' + file + ": " + e.what());
    }
  }
  return contents;
}

}  // namespace

StateStore::StateStore(std::string dir)
    : dir_(std::move(dir)),
      fd_(open_dir(dir_)),
      lock_(take_lock(fd_.get(), dir_ + '/' + kLockName)) {}

StateStore::Contents StateStore::load() const { return load_all(fd_.get(), dir_); }

StateStore::Contents StateStore::look(const std::string& dir) {
  const ublk::UniqueFd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) fail(errno, dir);
  return load_all(fd.get(), dir);
}

bool StateStore::has(const std::string& name) const {
  struct stat status {};
  return fstatat(fd_.get(), (name + kSuffix).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

void StateStore::save(const SavedDevice& device) {
  const std::string file = device.name + kSuffix;
  const std::string temporary = kTemporaryPrefix + file;
  const std::string path = dir_ + '/' + file;
  if (unlinkat(fd_.get(), temporary.c_str(), 0) != 0 && errno != ENOENT) fail(errno, path);
  const ublk::UniqueFd fd(openat(fd_.get(), temporary.c_str(),
                                 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!fd) fail(errno, "making " + path);
  write_all(fd.get(), to_json(device).dump(1) + '\n', path);
  if (renameat(fd_.get(), temporary.c_str(), fd_.get(), file.c_str()) != 0)
    fail(errno, "making " + path);
}

void StateStore::remove(const std::string& name) {
  const std::string file = name + kSuffix;
  if (unlinkat(fd_.get(), file.c_str(), 0) != 0 && errno != ENOENT)
    fail(errno, "removing " + dir_ + '/' + file);
}

}  // namespace ublk_runner
