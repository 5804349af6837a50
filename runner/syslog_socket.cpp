// SPDX-License-Identifier: MIT
#include "syslog_socket.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace ublk_runner {

namespace {

// "Nov 21 09:05:01 ", as RFC 3164 has it.
std::string time_stamp() {
  const time_t now = time(nullptr);
  tm local{};
  std::array<char, 32> text{};
  localtime_r(&now, &local);
  strftime(text.data(), text.size(), "%b %e %H:%M:%S ", &local);
  return text.data();
}

bool owner_is_gone(int error) {
  return error == ECONNREFUSED || error == ECONNRESET || error == ENOTCONN || error == EBADF;
}

}  // namespace

bool SyslogSocket::connect(const std::string& path) {
  path_ = path;
  tzset();  // reads /etc/localtime here and not on the I/O path
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ublk::UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return false;
  socket_ = std::move(fd);
  return true;
}

bool SyslogSocket::send(int priority, const std::string& text) {
  const std::string message = '<' + std::to_string(LOG_DAEMON | priority) + '>' + time_stamp() +
                              "ublk-runner[" + std::to_string(getpid()) + "]: " + text;
  const auto send_once = [&] {
    return ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL) >= 0;
  };
  if (send_once()) return true;
  return owner_is_gone(errno) && connect(path_) && send_once();
}

}  // namespace ublk_runner
