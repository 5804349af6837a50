// SPDX-License-Identifier: MIT
#include "tcp_peer.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

namespace nbd {
namespace {

constexpr unsigned kSilence = 30'000;  // ms
constexpr int kFewest = 3;             // of questions without an answer; one may get lost

#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44
#endif

void set(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));  // no matter if it is no TCP
}

}  // namespace

// No TCP_USER_TIMEOUT: that also ends the connection of a server that reads nothing for so long,
// though its kernel answers.
void keep_alive(int fd) {
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
  // Else two minutes may pass from one question to the next, once a server has read nothing for
  // some minutes. Linux 6.15.
  set(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, 5000);
}

// The last acknowledgement alone tells nothing: while the other end has no space, it is asked at
// ever longer intervals. Both counts go back to 0 with each answer.
bool is_peer_silent(const tcp_info& info) {
  return info.tcpi_last_ack_recv >= kSilence &&
         std::max(info.tcpi_retransmits, info.tcpi_probes) >= kFewest;
}

bool is_peer_silent(int fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && is_peer_silent(info);
}

void forget_unsent(int fd) {
  const linger none{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

}  // namespace nbd
