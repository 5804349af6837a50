// SPDX-License-Identifier: MIT
#include "write_all.h"

#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace ublk_runner {

void write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw std::system_error(n < 0 ? errno : EIO, std::generic_category(), "writing " + path);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace ublk_runner
