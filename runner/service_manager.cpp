// SPDX-License-Identifier: MIT
#include "service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string_view>

namespace ublk_runner {

namespace {

// What sd_notify(3) does, without libsystemd: a start would wait for that and the libraries that it
// needs, and the I/O of devices for the start.
void notify(const std::string& text) {
  const char* const name = getenv("NOTIFY_SOCKET");
  const std::string_view path = name == nullptr ? "" : name;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return;
  path.copy(address.sun_path, path.size());
  if (path.front() == '@') address.sun_path[0] = '\0';  // an abstract one
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const ublk::UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd)
    sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&address), length);
}

// What WATCHDOG_USEC asks of this process; 0: nothing.
uint64_t watchdog_microseconds() {
  const char* const limit = getenv("WATCHDOG_USEC");
  const char* const process = getenv("WATCHDOG_PID");
  if (limit == nullptr || (process != nullptr && atoll(process) != getpid())) return 0;
  return strtoull(limit, nullptr, 10);
}

}  // namespace

ServiceManager::ServiceManager(const MainContext& context) : context_(context) {
  const uint64_t microseconds = watchdog_microseconds();
  if (microseconds == 0) return;
  watchdog_ = std::max(Milliseconds(microseconds / 1000 / 2), Milliseconds(1));
  keep_watchdog_quiet();
}

void ServiceManager::keep_watchdog_quiet() {
  notify("WATCHDOG=1");
  next_ = context_.after(watchdog_, [this] { keep_watchdog_quiet(); });
}

void ServiceManager::ready(const std::string& status) const { notify("READY=1\nSTATUS=" + status); }

void ServiceManager::reloading() const {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t microseconds = uint64_t{1'000'000} * static_cast<uint64_t>(now.tv_sec) +
                                static_cast<uint64_t>(now.tv_nsec) / 1000;
  notify("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(microseconds) +
         "\nSTATUS=reading the configuration");
}

void ServiceManager::stopping() const { notify("STOPPING=1\nSTATUS=stopping"); }

}  // namespace ublk_runner
