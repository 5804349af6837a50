// SPDX-License-Identifier: MIT
//
// Who uses a block device, as far as this process can see.
#ifndef UBLK_RUNNER_DEVICE_USERS_H
#define UBLK_RUNNER_DEVICE_USERS_H

#include <string>
#include <vector>

namespace ublk_runner {

struct DeviceUser {
  std::string what;        // "mounted at /mnt", "held by dm-0", "open in fio (123)"
  bool transient = false;  // udev's look at a device that is new or has changed, over soon
};

// Users of the block device `node`, "/dev/ublkb3", and of its partitions: mounts in any mount
// namespace that a visible process has, swap, devices above it (dm, md, loop), open descriptors of
// visible processes, and whatever else has claimed it for itself. Reads /proc and /sys, which takes
// some milliseconds, and waits for no file system. What can't be read counts as a user, since in
// doubt the device stays. Any thread.
std::vector<DeviceUser> device_users(const std::string& node);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_USERS_H
