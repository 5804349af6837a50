// SPDX-License-Identifier: MIT
//
// The right to write to an image: the exclusive lock, and the end of a dead runner's client.
#ifndef UBLK_HANDLERS_RBD_OWNERSHIP_H
#define UBLK_HANDLERS_RBD_OWNERSHIP_H

#include <optional>
#include <string>

#include "image.h"
#include "owner_record.h"

namespace rbd {

// Blocks, throws std::system_error with a text for the user.
class Ownership {
 public:
  // `exclusive`: by the image's exclusive lock. The image must be open for writing and outlive
  // this.
  Ownership(Image& image, const std::string& device, bool exclusive);
  // Gives up what it has. All I/O must have ended.
  ~Ownership();
  Ownership(const Ownership&) = delete;
  Ownership& operator=(const Ownership&) = delete;

  // Before the first I/O. EBUSY: somebody else has the lock and keeps it.
  void take();
  // First makes sure that nothing reaches the image any more of the client that wrote for this
  // device before, if its runner has died.
  void take_over();

 private:
  std::string lock_owner() const;  // an address; "": nobody
  void lock();
  std::optional<OwnerRecord> read_record() const;
  OwnerRecord own_record() const;
  void write_record();

  Image& image_;
  const bool exclusive_;
  const std::string key_;
  const std::string boot_id_;
  bool taken_ = false;
};

}  // namespace rbd

#endif  // UBLK_HANDLERS_RBD_OWNERSHIP_H
