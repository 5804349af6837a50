// SPDX-License-Identifier: MIT
#include "wait_for_file.h"

#include <poll.h>
#include <sys/inotify.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

namespace ublk_runner {

bool wait_for_file(const std::string& path, std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + timeout;
  const std::string dir = std::filesystem::path(path).parent_path().string();
  const auto fail = [&dir] {
    throw std::system_error(errno, std::generic_category(), "watching " + dir);
  };
  const ublk::UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch || inotify_add_watch(watch.get(), dir.c_str(), IN_CREATE | IN_MOVED_TO) < 0) fail();

  // The look comes after the watch is set and after each event, so no change is missed.
  while (access(path.c_str(), F_OK) != 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return false;
    pollfd fd = {.fd = watch.get(), .events = POLLIN, .revents = 0};
    if (poll(&fd, 1, static_cast<int>(left.count())) < 0 && errno != EINTR) fail();
    std::array<char, 4096> events;
    while (read(watch.get(), events.data(), events.size()) > 0) {
    }
  }
  return true;
}

}  // namespace ublk_runner
