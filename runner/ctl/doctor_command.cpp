// SPDX-License-Identifier: MIT
#include <sys/stat.h>
#include <ublk/abi.h>
#include <ublk/control.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <system_error>

#include "ctl/checks.h"
#include "ctl/command.h"
#include "ctl/kernel_devices.h"
#include "ctl/output.h"
#include "ctl/runner_client.h"

namespace ublk_ctl {

namespace {

using Level = Check::Level;
using Checks = std::vector<Check>;

template <class Number>
std::optional<Number> read_number(const std::string& path) {
  std::ifstream in(path);
  Number number{};
  if (in >> number) return number;
  return std::nullopt;
}

// What is after `key` on its line.
std::string read_field(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      std::istringstream rest(line.substr(key.size()));
      std::string word;
      rest >> word;
      return word;
    }
  return "";
}

std::string read_link(const std::string& path) {
  char target[64];
  const ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? "" : std::string(target, static_cast<size_t>(length));
}

uint64_t count_entries(const std::string& dir) {
  std::error_code error;
  return static_cast<uint64_t>(std::distance(std::filesystem::directory_iterator(dir, error), {}));
}

void append(Checks& checks, Checks more) {
  checks.insert(checks.end(), std::make_move_iterator(more.begin()),
                std::make_move_iterator(more.end()));
}

Check check_driver() {
  struct stat status {};
  const char* node = ublk::abi::kControlPath;
  if (stat(node, &status) == 0) {
    if (!S_ISCHR(status.st_mode))
      return {"driver", Level::kWarning, std::string(node) + " is no device", "remove it"};
    return {"driver", Level::kOk, std::string(node) + " is there", ""};
  }
  if (access("/sys/class/misc/ublk-control", F_OK) == 0)
    return {"driver", Level::kWarning, std::string("the driver is there, but ") + node + " is not",
            "mount a devtmpfs on /dev, start udev, or give the container the node"};
  return {"driver", Level::kWarning, std::string(node) + " is missing",
          "modprobe ublk_drv; the runner does that at its start. If there is no such module: a "
          "kernel with CONFIG_BLK_DEV_UBLK"};
}

Checks check_devices(const std::string& state_dir) {
  Checks checks;
  size_t served = 0;
  try {
    ublk::Control control;
    for (const KernelDevice& device : kernel_devices(control, state_dir)) {
      const std::string name = "ublkb" + std::to_string(device.id);
      switch (device.verdict.fate) {
        case Verdict::Fate::kServed:
          ++served;
          break;
        case Verdict::Fate::kSaved:
          checks.push_back({"devices", Level::kWarning, name + ' ' + device.verdict.reason,
                            "start the runner, or remove that file and use ublkctl gc"});
          break;
        case Verdict::Fate::kKept:
          checks.push_back({"devices", Level::kWarning,
                            name + " is not served: " + device.verdict.reason, "see who uses it"});
          break;
        case Verdict::Fate::kLeftover:
          checks.push_back({"devices", Level::kWarning, name + " is left: " + device.verdict.reason,
                            "ublkctl gc --yes"});
          break;
      }
    }
  } catch (const ublk::Error& e) {
    const bool permission = e.error() == EACCES || e.error() == EPERM;
    return {{"devices", Level::kNote, std::string("not known: ") + e.what(),
             permission ? "run it as root" : ""}};
  }
  if (checks.empty())
    checks.push_back(
        {"devices", Level::kOk, std::to_string(served) + " there, all of them served", ""});
  return checks;
}

Checks check_runner(const Call& call) {
  std::string process;
  try {
    process = "/proc/" + RunnerClient(call).runner()["process_id"].dump();
  } catch (const CommandError& e) {
    if (e.status() == kExitNotPermitted)
      return {{"runner", Level::kNote, e.what(), "run it as root"}};
    return {{"runner", Level::kWarning, e.what(), "start it, see ublk-runner(8)"}};
  }
  Checks checks = {{"runner", Level::kOk, "answers, process " + process.substr(6), ""}};
  const std::string capabilities = read_field(process + "/status", "CapEff:");
  checks.push_back(check_memlock(read_field(process + "/limits", "Max locked memory"),
                                 strtoull(capabilities.c_str(), nullptr, 16)));
  checks.push_back(check_descriptors(read_field(process + "/limits", "Max open files"),
                                     count_entries(process + "/fd")));
  append(checks, check_namespaces(read_link(process + "/ns/mnt"), read_link("/proc/1/ns/mnt"),
                                  read_link(process + "/ns/pid"), read_link("/proc/1/ns/pid")));
  return checks;
}

ExitStatus run(const Call& call) {
  Checks checks = check_kernel(kernel_release());
  checks.push_back(check_driver());
  checks.push_back(
      check_ublks_max(read_number<unsigned>("/sys/module/ublk_drv/parameters/ublks_max")));
  checks.push_back(check_io_uring(read_number<int>("/proc/sys/kernel/io_uring_disabled")));
  append(checks, check_runner(call));
  append(checks, check_devices(call.option("state-dir", UBLK_STATE_DIR)));

  constexpr const char* kLevels[] = {"OK", "note", "WARNING"};
  std::vector<Row> rows = {{"CHECK", "RESULT", "WHAT THERE IS, AND WHAT TO DO"}};
  Json all = Json::array();
  for (const Check& check : checks) {
    const char* level = kLevels[static_cast<size_t>(check.level)];
    rows.push_back({check.subject, level,
                    check.advice.empty() ? check.text : check.text + ". " + check.advice});
    all.push_back({{"check", check.subject},
                   {"level", level},
                   {"text", check.text},
                   {"advice", check.advice}});
  }
  if (call.json())
    print_json(all);
  else
    print_text(format_table(rows));
  const bool good = std::none_of(checks.begin(), checks.end(),
                                 [](const Check& check) { return check.level == Level::kWarning; });
  return good ? kExitOk : kExitFailed;
}

}  // namespace

Command doctor_command() {
  return {"doctor",
          "",
          "What is wrong with this machine, and what to do about it",
          0,
          0,
          {{"state-dir", "DIR",
            "What runners have left for the next one (default: " UBLK_STATE_DIR ")"}},
          run};
}

}  // namespace ublk_ctl
