// SPDX-License-Identifier: MIT
//
// The machine at the other end of a TCP connection. A server that is alive but slow must be told
// from one that is gone: the first may still do what it was sent. What its kernel says tells them
// apart, for it acknowledges however slow the server is. No-ops on other sockets.
#ifndef UBLK_HANDLERS_NBD_TCP_PEER_H
#define UBLK_HANDLERS_NBD_TCP_PEER_H

#include <netinet/tcp.h>

namespace nbd {

// The other end is asked for a sign of life while nothing is under way. The kernel ends the
// connection after half a minute without one.
void keep_alive(int fd);

// Whether the other end has been asked again and again while something is under way, but there has
// been nothing of it for half a minute. The kernel itself would try for a quarter of an hour.
bool is_peer_silent(const tcp_info& info);
bool is_peer_silent(int fd);

// What has not reached the other end yet won't once the socket is closed.
void forget_unsent(int fd);

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_TCP_PEER_H
