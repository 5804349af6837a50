// SPDX-License-Identifier: MIT
//
// Names that last: /dev/ublk/NAME is a symbolic link to the /dev/ublkbN that the kernel chose.
#ifndef UBLK_RUNNER_DEVICE_LINKS_H
#define UBLK_RUNNER_DEVICE_LINKS_H

#include <string>

namespace ublk_runner {

// All of the directory; no link goes with the object. One thread at a time.
class DeviceLinks {
 public:
  // Touches nothing yet.
  explicit DeviceLinks(std::string dir = "/dev/ublk");

  // Makes `name` (a device name, see config.h) a link to `node`, "/dev/ublkb3". A stale link is
  // replaced in one step: who opens the name meanwhile gets the old node or the new one. Other
  // names of the node are removed: the kernel has given its number to this device, so they are left
  // of one that is gone, and who used them would get this one's data. The directory is made if
  // there is none, with mode 0755. Throws std::system_error: EEXIST if `name` is there and no
  // symbolic link, or one to another block device that exists; ENOTDIR if the directory is none.
  void add(const std::string& name, const std::string& node);

  // Removes the link if it is there and still points to the node. Throws std::system_error.
  void remove(const std::string& name, const std::string& node);

  // Removes all names of the node: before its number goes to another device. Throws
  // std::system_error.
  void remove_all(const std::string& node);

 private:
  std::string target(const std::string& node) const;

  const std::string dir_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_LINKS_H
