// SPDX-License-Identifier: MIT
#include "ctl/kernel_devices.h"

#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>

#include "device_users.h"
#include "node_number.h"

namespace ublk_ctl {

namespace {

namespace abi = ublk::abi;
namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr char kSysfsDir[] = "/sys/class/ublk-char";
// Younger ones may be about to be started.
constexpr seconds kNewAge{60};

const char* state_name(uint16_t state) {
  switch (static_cast<abi::DeviceState>(state)) {
    case abi::DeviceState::kDead:
      return "dead";
    case abi::DeviceState::kLive:
      return "live";
    case abi::DeviceState::kQuiesced:
      return "quiesced";
    case abi::DeviceState::kFailIo:
      return "fail-io";
  }
  return "";
}

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

bool is_number(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<uint32_t> device_ids() {
  constexpr std::string_view kPrefix = "ublkc";
  std::vector<uint32_t> ids;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(kSysfsDir, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && is_number(name.substr(kPrefix.size())))
      ids.push_back(static_cast<uint32_t>(std::stoul(name.substr(kPrefix.size()))));
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

// What is looked at once for all devices.
struct Surroundings {
  std::map<std::string, std::string> openers;  // "major:minor" of a ublkc -> who has it open
  std::map<uint32_t, std::vector<std::pair<uint64_t, std::string>>> saved;  // id -> cookie, file
  std::string doubt;
};

void find_openers(const fs::path& process, Surroundings& found) {
  std::error_code error;
  for (fs::directory_iterator entry(process / "fd", error), end; !error && entry != end;
       entry.increment(error)) {
    if (const auto number = ublk_runner::node_number(entry->path(), S_IFCHR))
      found.openers[*number] =
          first_line(process / "comm") + " (" + process.filename().string() + ')';
  }
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::no_such_process)
    found.doubt = "process " + process.filename().string() + " can't be looked at";
}

void find_saved(const std::string& dir, Surroundings& found) {
  try {
    const ublk_runner::StateStore::Contents contents = ublk_runner::StateStore::look(dir);
    for (const ublk_runner::SavedDevice& device : contents.devices)
      found.saved[device.id].emplace_back(device.cookie, dir + '/' + device.name + ".json");
    if (!contents.findings.empty()) found.doubt = contents.findings.front();
  } catch (const std::system_error& e) {
    if (e.code() != std::errc::no_such_file_or_directory) found.doubt = e.what();
  }
}

void find_all_saved(const std::string& state_dir, Surroundings& found) {
  find_saved(state_dir, found);
  const fs::path own = (fs::absolute(state_dir) / "").lexically_normal().parent_path();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(own, error))
    if (entry.is_directory(error)) find_saved(entry.path().string(), found);
  for (const auto& entry : fs::directory_iterator(own.parent_path(), error))
    if (entry.path() != own && entry.is_directory(error) &&
        entry.path().filename().string().starts_with(own.filename().string()))
      find_saved(entry.path().string(), found);
}

Surroundings look_around(const std::string& state_dir) {
  Surroundings found;
  find_all_saved(state_dir, found);
  for (const auto& entry : fs::directory_iterator("/proc"))
    if (is_number(entry.path().filename().string())) find_openers(entry.path(), found);
  return found;
}

seconds age_of(uint32_t id) {
  struct stat status {};
  if (stat((abi::kCharDevicePrefix + std::to_string(id)).c_str(), &status) != 0) return seconds(0);
  return seconds(time(nullptr) - status.st_mtime);
}

DeviceFacts facts_of(ublk::Control& control, uint32_t id, const Surroundings& around) {
  DeviceFacts facts;
  facts.doubt = around.doubt;
  const std::string number =
      first_line(fs::path(kSysfsDir) / ("ublkc" + std::to_string(id)) / "dev");
  if (const auto opener = around.openers.find(number); opener != around.openers.end())
    facts.server = opener->second;
  try {
    facts.info = control.info(id);
  } catch (const ublk::Error& e) {
    facts.doubt = e.what();
    return facts;
  }
  const int pid = facts.info->ublksrv_pid;
  facts.pid_lives = pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
  if (const auto saved = around.saved.find(id); saved != around.saved.end())
    for (const auto& [cookie, file] : saved->second)
      if (cookie == facts.info->ublksrv_flags) facts.saved = file;
  const std::string node = abi::kBlockDevicePrefix + std::to_string(id);
  if (fs::exists("/sys/block/ublkb" + std::to_string(id)))
    for (const ublk_runner::DeviceUser& user : ublk_runner::device_users(node))
      if (!user.transient && facts.user.empty()) facts.user = user.what;
  facts.age = age_of(id);
  return facts;
}

}  // namespace

Verdict judge(const DeviceFacts& facts) {
  using Fate = Verdict::Fate;
  if (!facts.server.empty()) return {Fate::kServed, "served by " + facts.server};
  if (!facts.info.has_value()) return {Fate::kKept, facts.doubt};
  const auto state = static_cast<abi::DeviceState>(facts.info->state);
  const std::string process = "process " + std::to_string(facts.info->ublksrv_pid);
  // The process may be of another PID namespace than this one, and not to be seen from here.
  if (state == abi::DeviceState::kLive) return {Fate::kServed, "served by " + process};
  if (facts.pid_lives) return {Fate::kKept, process + " lives, which has served it"};
  if (!facts.saved.empty()) return {Fate::kSaved, "waits for the next runner, see " + facts.saved};
  if (!facts.doubt.empty()) return {Fate::kKept, facts.doubt};
  if (!facts.user.empty()) return {Fate::kKept, facts.user};
  if (facts.age < kNewAge) return {Fate::kKept, "it is new and may be about to be served"};
  return {Fate::kLeftover, "its server is dead, and nobody wants it"};
}

std::vector<KernelDevice> kernel_devices(ublk::Control& control, const std::string& state_dir) {
  std::vector<KernelDevice> devices;
  const std::vector<uint32_t> ids = device_ids();
  if (ids.empty()) return devices;
  const Surroundings around = look_around(state_dir);
  for (const uint32_t id : ids) {
    const DeviceFacts facts = facts_of(control, id, around);
    devices.push_back(
        {id, facts.info.has_value() ? state_name(facts.info->state) : "", judge(facts)});
  }
  return devices;
}

void check_leftover(ublk::Control& control, const std::string& state_dir, uint32_t id) {
  const Verdict now = judge(facts_of(control, id, look_around(state_dir)));
  if (now.fate != Verdict::Fate::kLeftover)
    throw std::system_error(EBUSY, std::generic_category(), now.reason);
}

// Where the kernel can, it is the kernel that makes sure that nobody has opened it meanwhile.
void remove_device(ublk::Control& control, uint32_t id) {
  const bool has_disk = std::filesystem::exists("/sys/block/ublkb" + std::to_string(id));
  if (has_disk && (control.features() & abi::kFlagSafeStopDev) != 0)
    control.run(ublk::Command::try_stop(id));
  else
    control.stop(id);
  control.del(id);
}

}  // namespace ublk_ctl
