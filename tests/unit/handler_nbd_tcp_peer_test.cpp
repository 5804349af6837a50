// SPDX-License-Identifier: MIT
//
// A server that does not read is told from one whose machine is gone.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <ublk/unique_fd.h>

#include <string>

#include "tcp_peer.h"

namespace {

tcp_info info(uint32_t last_ack_ms, uint8_t retransmits, uint8_t probes) {
  tcp_info info{};
  info.tcpi_last_ack_recv = last_ack_ms;
  info.tcpi_retransmits = retransmits;
  info.tcpi_probes = probes;
  return info;
}

TEST(NbdTcpPeer, IsSilentOnlyIfItWasAskedAgainAndAgain) {
  EXPECT_TRUE(nbd::is_peer_silent(info(30'000, 7, 0)));
  EXPECT_TRUE(nbd::is_peer_silent(info(31'000, 0, 3)));
  EXPECT_FALSE(nbd::is_peer_silent(info(20'000, 6, 0)));
  // No space for minutes: the probes are far apart, and each was answered but for the one on its
  // way.
  EXPECT_FALSE(nbd::is_peer_silent(info(119'000, 0, 0)));
  EXPECT_FALSE(nbd::is_peer_silent(info(120'000, 0, 1)));
}

TEST(NbdTcpPeer, ALiveConnectionIsNotSilentAndHasNoUserTimeout) {
  const ublk::UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(bind(listener.get(), any, size), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(getsockname(listener.get(), any, &size), 0);
  const ublk::UniqueFd client(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(client.get(), any, size), 0);

  nbd::keep_alive(client.get());
  const std::string much(1 << 20, 'x');
  while (send(client.get(), much.data(), much.size(), MSG_DONTWAIT) > 0) {
  }
  EXPECT_FALSE(nbd::is_peer_silent(client.get()));
  // It ends connections whose other end has no space, too.
  unsigned timeout = 0;
  size = sizeof(timeout);
  ASSERT_EQ(getsockopt(client.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size), 0);
  EXPECT_EQ(timeout, 0);
}

}  // namespace
