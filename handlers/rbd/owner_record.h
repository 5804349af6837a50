// SPDX-License-Identifier: MIT
//
// What a device leaves in its image's metadata while it may write to it: which client of the
// cluster writes for it. Its successor reads there whom to blocklist if the runner was killed.
#ifndef UBLK_HANDLERS_RBD_OWNER_RECORD_H
#define UBLK_HANDLERS_RBD_OWNER_RECORD_H

#include <optional>
#include <string>

namespace rbd {

struct OwnerRecord {
  std::string boot_id;   // of the machine that the device is on: another boot's runner is gone
  std::string image_id;  // a clone's metadata is that of its parent at first
  std::string address;   // of the client

  // "BOOT-ID IMAGE-ID ADDRESS"
  std::string text() const;
  // nullopt: it is none.
  static std::optional<OwnerRecord> parse(const std::string& text);

  bool operator==(const OwnerRecord&) const = default;
};

// Of the device of this machine: "ublk-runner/MACHINE-ID/DEVICE", by machine-id(5); the host's
// name, which may change while a device is served, if there is none.
std::string owner_record_key(const std::string& device);
std::string this_boot_id();

}  // namespace rbd

#endif  // UBLK_HANDLERS_RBD_OWNER_RECORD_H
