// SPDX-License-Identifier: MIT
// What a process has, to see what was left behind.
#ifndef UBLK_CHECK_PROCESS_STATE_H
#define UBLK_CHECK_PROCESS_STATE_H

#include <cstddef>
#include <set>
#include <string>

namespace ublk_check {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

struct ProcessState {
  std::set<int> descriptors;
  size_t threads = 0;
  size_t heap = 0;  // bytes that malloc has given out
  size_t maps = 0;  // bytes of address space

  static ProcessState now();
};

// "2 descriptors (/tmp/disk, socket:[1234])" and so on: what there is more than before; empty:
// nothing
// The heap counts from `heap_slack` bytes on, address space from `maps_slack`.
std::string left_behind(const ProcessState& before, const ProcessState& after, size_t heap_slack,
                        size_t maps_slack = 8 << 20);

// The same of the process as it is now, and for good: what goes within a second is not left.
// Threads of a pool let go of a job a moment after they have told of its end.
std::string left_behind_for_good(const ProcessState& before, size_t heap_slack,
                                 size_t maps_slack = 8 << 20);

}  // namespace ublk_check

#endif  // UBLK_CHECK_PROCESS_STATE_H
