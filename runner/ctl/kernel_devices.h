// SPDX-License-Identifier: MIT
//
// The ublk devices of this machine, whoever made them, and which of them nobody wants any more.
#ifndef UBLK_CTL_KERNEL_DEVICES_H
#define UBLK_CTL_KERNEL_DEVICES_H

#include <sys/types.h>
#include <ublk/abi.h>
#include <ublk/control.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "state_store.h"

namespace ublk_ctl {

// What there is to know of a device. In doubt the device stays, so what can't be known counts as a
// reason for that.
struct DeviceFacts {
  std::optional<ublk::abi::DevInfo> info;  // nullopt: the kernel does not tell
  std::string server;      // who has /dev/ublkcN, "ublk-runner (123)"; empty: nobody
  bool pid_lives = false;  // the process that started it, or a later one of its id
  std::string saved;       // the state file that wants it; empty: none does
  std::string doubt;       // what could not be looked at; empty: nothing
  std::string user;        // "mounted at /mnt"; empty: nobody
  std::chrono::seconds age{0};
};

struct Verdict {
  enum class Fate {
    kServed,    // by a process that lives
    kSaved,     // the next runner goes on with it
    kKept,      // used, or not known to be unwanted
    kLeftover,  // nobody serves it, and nobody wants it
  };
  Fate fate;
  std::string reason;
};
Verdict judge(const DeviceFacts& facts);

struct KernelDevice {
  uint32_t id;
  std::string state;  // the kernel's: "live", "quiesced"...; empty: not known
  Verdict verdict;
};

// All devices, by id. `state_dir`: that of the runner; those of other runners are looked at, too,
// if they are in it or beside it and their names begin with its name.
std::vector<KernelDevice> kernel_devices(ublk::Control& control, const std::string& state_dir);

// Looks again whether it is leftover: its number may be another device's by now. Throws
// std::system_error: it is not.
void check_leftover(ublk::Control& control, const std::string& state_dir, uint32_t id);

// Removes a leftover device. Throws ublk::Error; EBUSY: somebody uses it.
void remove_device(ublk::Control& control, uint32_t id);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_KERNEL_DEVICES_H
