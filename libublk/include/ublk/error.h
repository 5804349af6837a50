// SPDX-License-Identifier: MIT
// What libublk throws on control paths. The I/O path never throws; it speaks -errno.
#ifndef UBLK_ERROR_H
#define UBLK_ERROR_H

#include <memory>
#include <string>
#include <system_error>

#include "ublk/export.h"

namespace ublk {

// A control command, or a step of opening a device, has failed. what() reads like
//   "START_DEV of device 3: File exists (EEXIST): the device is already live"
// code() holds the errno; ETIMEDOUT means that the deadline has passed.
class UBLK_EXPORT Error : public std::system_error {
 public:
  // `step` is a command's name or a phrase such as "open /dev/ublkc3"; `hint` may be empty.
  Error(int error, std::string step, const std::string& hint = {});

  const char* what() const noexcept override;
  int error() const noexcept { return code().value(); }  // positive errno
  const std::string& step() const noexcept { return step_; }

 private:
  std::string step_;
  std::shared_ptr<const std::string> text_;
};

// "ENOSPC" for ENOSPC; the number as text if it has no name.
UBLK_EXPORT std::string errno_name(int error);

}  // namespace ublk

#endif  // UBLK_ERROR_H
