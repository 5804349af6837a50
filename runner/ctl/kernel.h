// SPDX-License-Identifier: MIT
//
// The running kernel: its version and what its ublk driver can do.
#ifndef UBLK_CTL_KERNEL_H
#define UBLK_CTL_KERNEL_H

#include <compare>
#include <cstdint>
#include <span>
#include <string>

namespace ublk_ctl {

struct KernelVersion {
  unsigned major = 0;
  unsigned minor = 0;
  auto operator<=>(const KernelVersion&) const = default;
};
// "7.2.12+deb13-cloud-amd64"; 0.0 if it is no such thing.
KernelVersion parse_kernel_version(const std::string& release);

std::string kernel_release();

// A UBLK_F_ flag of GET_FEATURES.
struct Feature {
  uint64_t flag;
  const char* name;   // without "UBLK_F_"
  const char* since;  // the first Linux with it
  const char* gives;
};
std::span<const Feature> features();  // by bit

// What the driver answers. Throws CommandError: there is no driver, no permission.
uint64_t ask_features();

}  // namespace ublk_ctl

#endif  // UBLK_CTL_KERNEL_H
