// SPDX-License-Identifier: MIT
//
// The system log's socket, written to without ever waiting, which syslog(3) does not promise.
#ifndef UBLK_RUNNER_SYSLOG_SOCKET_H
#define UBLK_RUNNER_SYSLOG_SOCKET_H

#include <ublk/unique_fd.h>

#include <string>

namespace ublk_runner {

// One thread at a time.
class SyslogSocket {
 public:
  // Connects to a datagram socket, "/dev/log". False with errno if nobody listens there.
  bool connect(const std::string& path);

  // Sends one message as daemon.PRIORITY of the program and process; `priority` is a LOG_* of
  // <syslog.h>. False if it is lost: the socket is full, or its owner is gone and no new one there.
  bool send(int priority, const std::string& text);

 private:
  std::string path_;
  ublk::UniqueFd socket_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SYSLOG_SOCKET_H
