// SPDX-License-Identifier: MIT
#include "write_back_watch.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace file {

// Opened anew, not duplicated: what was reported is remembered by open file.
WriteBackWatch::WriteBackWatch(int fd)
    : fd_(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!fd_)
    throw std::system_error(errno, std::generic_category(), "/proc/self/fd: cannot be opened");
}

// sync_file_range(2) waits for the pages of its range, there are none at the end of all files, and
// returns what has happened to any page.
int WriteBackWatch::error() {
  const std::lock_guard lock(mutex_);
  if (error_ == 0 && sync_file_range(fd_.get(), INT64_MAX - 1, 1, SYNC_FILE_RANGE_WAIT_BEFORE) != 0)
    error_ = -errno;
  return error_;
}

}  // namespace file
