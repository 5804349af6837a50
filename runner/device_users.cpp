// SPDX-License-Identifier: MIT
#include "device_users.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

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

void find_swap(const Nodes& nodes, std::vector<DeviceUser>& users) {
  std::ifstream in("/proc/swaps");
  for (std::string line; std::getline(in, line);) {
    const std::string path = line.substr(0, line.find(' '));
    struct stat status {};
    if (stat(path.c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) continue;
    const std::string number =
        std::to_string(major(status.st_rdev)) + ':' + std::to_string(minor(status.st_rdev));
    if (const auto node = nodes.find(number); node != nodes.end())
      users.push_back({node->second + " is swap"});
  }
}

bool is_udev(const std::string& command) {
  return command == "(udev-worker)" || command.starts_with("systemd-udevd") || command == "udevd";
}

void find_open_files(const fs::path& process, const Nodes& nodes, std::vector<DeviceUser>& users) {
  std::error_code error;
  for (fs::directory_iterator entry(process / "fd", error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat status {};
    if (stat(entry->path().c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) continue;
    const std::string number =
        std::to_string(major(status.st_rdev)) + ':' + std::to_string(minor(status.st_rdev));
    const auto node = nodes.find(number);
    if (node == nodes.end()) continue;
    const std::string command = first_line(process / "comm");
    users.push_back(
        {node->second + " is open in " + command + " (" + process.filename().string() + ')',
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
  } catch (const std::exception& e) {
    users.push_back({std::string("it can't be told who uses it: ") + e.what()});
  }
  return users;
}

}  // namespace ublk_runner
