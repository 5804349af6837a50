// SPDX-License-Identifier: MIT
#include "device_users.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <ublk/unique_fd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "node_number.h"

namespace ublk_runner {

namespace {

namespace fs = std::filesystem;

// The device and its partitions, "major:minor" to their name.
using Nodes = std::map<std::string, std::string>;

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Nodes nodes_of(const std::string& name) {
  const fs::path disk = fs::path("/sys/block") / name;
  Nodes nodes = {{first_line(disk / "dev"), name}};
  for (const auto& entry : fs::directory_iterator(disk)) {
    const fs::path partition = entry.path();
    if (partition.filename().string().starts_with(name) && fs::exists(partition / "partition"))
      nodes.emplace(first_line(partition / "dev"), partition.filename().string());
  }
  return nodes;
}

void find_holders(const std::string& disk, const Nodes& nodes, std::vector<DeviceUser>& users) {
  for (const auto& [number, name] : nodes) {
    fs::path holders = fs::path("/sys/block") / disk;
    if (name != disk) holders /= name;
    holders /= "holders";
    if (!fs::exists(holders)) continue;
    for (const auto& entry : fs::directory_iterator(holders))
      users.push_back({name + " is held by " + entry.path().filename().string()});
  }
}

// proc(5), mountinfo: the third field is major:minor, the fifth where it is mounted.
void find_mounts(const fs::path& mountinfo, const Nodes& nodes, std::vector<DeviceUser>& users) {
  std::ifstream in(mountinfo);
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string id;
    std::string parent;
    std::string number;
    std::string root;
    std::string place;
    fields >> id >> parent >> number >> root >> place;
    if (const auto node = nodes.find(number); node != nodes.end())
      users.push_back({node->second + " is mounted at " + place});
  }
}

// The name of the node that the path leads to; nullopt: to none of them.
std::optional<std::string> node_at(const std::string& path, const Nodes& nodes) {
  const auto number = node_number(path, S_IFBLK);
  if (!number) return std::nullopt;
  const auto node = nodes.find(*number);
  if (node == nodes.end()) return std::nullopt;
  return node->second;
}

// The same for the name of a file that may be anywhere: elsewhere it is not looked up, since that
// may wait for a server that is gone.
std::optional<std::string> node_named(const std::string& path, const Nodes& nodes) {
  return path.starts_with("/dev/") ? node_at(path, nodes) : std::nullopt;
}

void find_swap(const Nodes& nodes, std::vector<DeviceUser>& users) {
  std::ifstream in("/proc/swaps");
  for (std::string line; std::getline(in, line);)
    if (const auto node = node_named(line.substr(0, line.find(' ')), nodes))
      users.push_back({*node + " is swap"});
}

// Loop devices hold the file that they were given, not the device, and are no holders of it.
void find_loops(const Nodes& nodes, std::vector<DeviceUser>& users) {
  for (const auto& entry : fs::directory_iterator("/sys/block")) {
    const std::string file = first_line(entry.path() / "loop" / "backing_file");
    if (file.empty()) continue;
    if (const auto node = node_named(file, nodes))
      users.push_back({*node + " is held by " + entry.path().filename().string()});
  }
}

// What is seen nowhere else has the device to itself all the same, and a claim of a partition is
// one of the disk: btrfs, which is mounted under a number of its own, targets of the kernel, ZFS.
void find_claim(const std::string& disk, std::vector<DeviceUser>& users) {
  const ublk::UniqueFd fd(open(("/dev/" + disk).c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  if (fd || errno == ENXIO || errno == ENODEV || errno == ENOENT) return;  // free, or gone
  if (errno == EBUSY)
    users.push_back({disk + " is in use by the kernel"});
  else
    users.push_back({disk + " can't be opened: " + strerrordesc_np(errno)});
}

bool is_udev(const std::string& command) {
  return command == "(udev-worker)" || command.starts_with("systemd-udevd") || command == "udevd";
}

void find_open_files(const fs::path& process, const Nodes& nodes, std::vector<DeviceUser>& users) {
  std::error_code error;
  for (fs::directory_iterator entry(process / "fd", error), end; !error && entry != end;
       entry.increment(error)) {
    const auto node = node_at(entry->path(), nodes);
    if (!node) continue;
    const std::string command = first_line(process / "comm");
    users.push_back({*node + " is open in " + command + " (" + process.filename().string() + ')',
                     is_udev(command)});
    return;
  }
  // It has ended meanwhile, or is no business of ours.
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::no_such_process)
    users.push_back(
        {"process " + process.filename().string() + " can't be looked at: " + error.message()});
}

}  // namespace

std::vector<DeviceUser> device_users(const std::string& node) {
  std::vector<DeviceUser> users;
  try {
    const std::string disk = fs::path(node).filename().string();
    const Nodes nodes = nodes_of(disk);
    find_holders(disk, nodes, users);
    find_swap(nodes, users);
    find_loops(nodes, users);
    std::set<ino_t> namespaces;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const fs::path process = entry.path();
      if (!is_number(process.filename().string())) continue;
      struct stat status {};
      if (stat((process / "ns/mnt").c_str(), &status) == 0 &&
          namespaces.insert(status.st_ino).second)
        find_mounts(process / "mountinfo", nodes, users);
      find_open_files(process, nodes, users);
    }
    const auto is_transient = [](const DeviceUser& user) { return user.transient; };
    if (std::all_of(users.begin(), users.end(), is_transient)) find_claim(disk, users);
  } catch (const std::exception& e) {
    users.push_back({std::string("it can't be told who uses it: ") + e.what()});
  }
  return users;
}

}  // namespace ublk_runner
