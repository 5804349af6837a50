// SPDX-License-Identifier: MIT
#include "device_links.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "node_number.h"

namespace ublk_runner {

namespace {

constexpr mode_t kDirMode = 0755;

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

// The directory itself, not what a link in its place points to. No fd if it is not there.
ublk::UniqueFd open_dir(const std::string& dir) {
  return ublk::UniqueFd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

ublk::UniqueFd make_dir(const std::string& dir) {
  const bool is_new = mkdir(dir.c_str(), kDirMode) == 0;
  if (!is_new && errno != EEXIST) fail(errno, "making " + dir);
  ublk::UniqueFd fd = open_dir(dir);
  // O_NOFOLLOW says ELOOP of a link; what matters is that it is no directory.
  if (!fd) fail(errno == ELOOP ? ENOTDIR : errno, dir);
  if (is_new && fchmod(fd.get(), kDirMode) != 0) fail(errno, "setting the mode of " + dir);
  return fd;
}

// What the link points to; nullopt if there is none. Fails with EEXIST if it is something else.
std::optional<std::string> read_link(int dir, const std::string& name, const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlinkat(dir, name.c_str(), target, sizeof(target));
  if (length >= 0) return std::string(target, static_cast<size_t>(length));
  if (errno == ENOENT) return std::nullopt;
  fail(errno == EINVAL ? EEXIST : errno, path + " is no symbolic link");
}

// Removes all links to it.
void remove_links(const std::string& dir, const std::string& target) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    if (std::filesystem::read_symlink(entry.path(), error) == target)
      std::filesystem::remove(entry.path());
}

}  // namespace

DeviceLinks::DeviceLinks(std::string dir) : dir_(std::move(dir)) {}

// Relative where it can be, so that it also holds where the directory is mounted elsewhere.
std::string DeviceLinks::target(const std::string& node) const {
  const std::filesystem::path path(node);
  if (path.parent_path() == std::filesystem::path(dir_).parent_path())
    return "../" + path.filename().string();
  return node;
}

void DeviceLinks::add(const std::string& name, const std::string& node) {
  const std::string path = dir_ + '/' + name;
  const ublk::UniqueFd dir = make_dir(dir_);
  const std::string to = target(node);
  const std::optional<std::string> old = read_link(dir.get(), name, path);
  // Then it is the only one: it has been made here.
  if (old == to) return;
  if (old && node_number(path, S_IFBLK)) {
    const auto other = (std::filesystem::path(dir_) / *old).lexically_normal();
    fail(EEXIST,
         path + " is the name of " + other.string() + " already, perhaps of another runner");
  }
  remove_links(dir_, to);

  // '#' is in no device name, so this is the name of no device. What is there is left of a runner
  // that was killed between these lines.
  const std::string temporary = ".#" + name;
  if (unlinkat(dir.get(), temporary.c_str(), 0) != 0 && errno != ENOENT)
    fail(errno, "removing " + dir_ + '/' + temporary);
  if (symlinkat(to.c_str(), dir.get(), temporary.c_str()) != 0) fail(errno, "linking " + path);
  if (renameat(dir.get(), temporary.c_str(), dir.get(), name.c_str()) != 0) {
    const int error = errno;
    unlinkat(dir.get(), temporary.c_str(), 0);
    fail(error, "linking " + path);
  }
}

void DeviceLinks::remove(const std::string& name, const std::string& node) {
  const std::string path = dir_ + '/' + name;
  const ublk::UniqueFd dir = open_dir(dir_);
  if (!dir) {
    if (errno == ENOENT) return;
    fail(errno, "opening " + dir_);
  }
  if (read_link(dir.get(), name, path) != target(node)) return;
  if (unlinkat(dir.get(), name.c_str(), 0) != 0 && errno != ENOENT) fail(errno, "removing " + path);
}

void DeviceLinks::remove_all(const std::string& node) {
  if (std::filesystem::exists(dir_)) remove_links(dir_, target(node));
}

}  // namespace ublk_runner
