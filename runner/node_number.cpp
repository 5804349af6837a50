// SPDX-License-Identifier: MIT
#include "node_number.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace ublk_runner {

std::optional<std::string> node_number(const std::string& path, mode_t type) {
  struct statx status {};
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &status) != 0 ||
      (status.stx_mode & S_IFMT) != type)
    return std::nullopt;
  return std::to_string(status.stx_rdev_major) + ':' + std::to_string(status.stx_rdev_minor);
}

}  // namespace ublk_runner
