// SPDX-License-Identifier: MIT
#include "ctl/checks.h"

#include <linux/capability.h>

#include <cstdlib>

#include "option_value.h"

namespace ublk_ctl {

namespace {

using Level = Check::Level;

constexpr KernelVersion kOldest{6, 5};
constexpr uint64_t kEnoughMemlock = 64 << 20;

struct KernelTrouble {
  KernelVersion before;  // versions before it have the trouble
  const char* text;
  const char* advice;
};
constexpr KernelTrouble kTroubles[] = {
    {{6, 13}, "recovery = fail-io is not possible", ""},
    {{6, 15}, "no zero copy", ""},
    {{6, 16},
     "zero copy takes two commands more for a request, and the size of a device can't change while "
     "it is there",
     ""},
    {{7, 0},
     "no batch I/O; whether a device is in use when it is to be removed is found out by a look "
     "at /proc and /sys, which sees no other containers",
     "unmount before you remove"},
    {{7, 3},
     "a runner that is killed in the moment it starts a device leaves one that can't be used",
     "\"ublkctl gc\" finds it"},
};

}  // namespace

std::vector<Check> check_kernel(const std::string& release) {
  const KernelVersion version = parse_kernel_version(release);
  if (version < kOldest)
    return {{"kernel", Level::kWarning, "Linux " + release + " is too old",
             "use Linux 6.5 or later with CONFIG_BLK_DEV_UBLK"}};
  std::vector<Check> checks = {{"kernel", Level::kOk, "Linux " + release, ""}};
  for (const KernelTrouble& trouble : kTroubles)
    if (version < trouble.before)
      checks.push_back({"kernel", Level::kNote,
                        "before " + std::to_string(trouble.before.major) + '.' +
                            std::to_string(trouble.before.minor) + ": " + trouble.text,
                        trouble.advice});
  return checks;
}

Check check_io_uring(std::optional<int> disabled) {
  constexpr const char* kAdvice = "sysctl kernel.io_uring_disabled=0";
  switch (disabled.value_or(0)) {
    case 0:
      return {"io_uring", Level::kOk, "allowed", ""};
    case 1:
      return {"io_uring", Level::kOk, "allowed to root (io_uring_disabled = 1)", ""};
    default:
      return {"io_uring", Level::kWarning, "forbidden (io_uring_disabled = 2): ublk needs it",
              kAdvice};
  }
}

Check check_memlock(const std::string& limit, uint64_t capabilities) {
  if ((capabilities >> CAP_IPC_LOCK & 1) != 0)
    return {"memlock", Level::kOk, "no limit for the runner (CAP_IPC_LOCK)", ""};
  if (limit == "unlimited") return {"memlock", Level::kOk, "unlimited", ""};
  const uint64_t bytes = strtoull(limit.c_str(), nullptr, 10);
  const std::string text = "the runner may lock " + ublk_runner::format_size(bytes);
  if (bytes >= kEnoughMemlock) return {"memlock", Level::kOk, text, ""};
  return {"memlock", Level::kWarning, text + ", too little for many rings",
          "raise it: LimitMEMLOCK=infinity in the unit, or ulimit -l"};
}

// Each device takes some: its ublkc and what its handler opens.
Check check_descriptors(const std::string& limit, uint64_t open) {
  const std::string text = std::to_string(open) + " open files of the runner, limit " + limit;
  if (limit == "unlimited" || open < strtoull(limit.c_str(), nullptr, 10) / 4 * 3)
    return {"descriptors", Level::kOk, text, ""};
  return {"descriptors", Level::kWarning, text + ": more devices may fail",
          "raise it: LimitNOFILE=1048576 in the unit, or ulimit -n"};
}

Check check_ublks_max(std::optional<unsigned> maximum) {
  if (!maximum) return {"ublks_max", Level::kOk, "the driver has no limit of devices", ""};
  return {"ublks_max", Level::kOk,
          std::to_string(*maximum) + " unprivileged devices at most; the runner's are not counted",
          ""};
}

std::vector<Check> check_namespaces(const std::string& mount, const std::string& init_mount,
                                    const std::string& pid, const std::string& init_pid) {
  std::vector<Check> checks;
  if (pid != init_pid)
    checks.push_back({"namespaces", Level::kWarning,
                      "the runner is in a pid namespace of its own: it can't see who uses its "
                      "devices outside of it",
                      "run it in the host's (--pid=host), or unmount before it removes devices"});
  if (mount != init_mount)
    checks.push_back({"namespaces", Level::kNote,
                      "the runner is in a mount namespace of its own: paths of its handlers and "
                      "the links in /dev/ublk are those that it sees there",
                      "look with nsenter -m -t PID"});
  if (checks.empty())
    checks.push_back({"namespaces", Level::kOk, "the runner is in those of process 1", ""});
  return checks;
}

}  // namespace ublk_ctl
