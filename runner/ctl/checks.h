// SPDX-License-Identifier: MIT
//
// What "ublkctl doctor" judges by, apart from where it reads it.
#ifndef UBLK_CTL_CHECKS_H
#define UBLK_CTL_CHECKS_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ctl/kernel.h"

namespace ublk_ctl {

struct Check {
  enum class Level { kOk, kNote, kWarning };
  std::string subject;  // "kernel"
  Level level;
  std::string text;
  std::string advice;  // what to do; empty: nothing
};

// The version, and what is known to go wrong with it.
std::vector<Check> check_kernel(const std::string& release);

// /proc/sys/kernel/io_uring_disabled; nullopt: the kernel has no such switch.
Check check_io_uring(std::optional<int> disabled);

// The runner's limit of locked memory, as /proc/PID/limits has it in bytes or "unlimited", and its
// effective capabilities.
Check check_memlock(const std::string& limit, uint64_t capabilities);

// The runner's limit of open files, likewise, and how many it has open.
Check check_descriptors(const std::string& limit, uint64_t open);

// The value of the driver's parameter; nullopt: it has none.
Check check_ublks_max(std::optional<unsigned> maximum);

// The links of /proc/PID/ns: the runner's and those of process 1.
std::vector<Check> check_namespaces(const std::string& mount, const std::string& init_mount,
                                    const std::string& pid, const std::string& init_pid);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_CHECKS_H
