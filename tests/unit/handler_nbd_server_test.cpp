// SPDX-License-Identifier: MIT
//
// A server that comes back with less than a device was made for is found out; none is trusted that
// would not be verified.
#include <gtest/gtest.h>

#include <string>
#include <system_error>

#include "server.h"

namespace {

using nbd::Export;

Export with_payload(uint32_t bytes) {
  Export of;
  of.maximum_payload = bytes;
  return of;
}

TEST(NbdServer, ASmallerPayloadIsAShortcomingIfTheDeviceMaySendMore) {
  constexpr uint32_t kMiB = 1u << 20;
  EXPECT_NE(nbd::shortcoming(with_payload(32 * kMiB), with_payload(kMiB)), "");
  EXPECT_NE(nbd::shortcoming(with_payload(0), with_payload(kMiB)), "");
  EXPECT_EQ(nbd::shortcoming(with_payload(0), with_payload(32 * kMiB)), "");
  EXPECT_EQ(nbd::shortcoming(with_payload(64 * kMiB), with_payload(32 * kMiB)), "");
  EXPECT_EQ(nbd::shortcoming(with_payload(64 * kMiB), with_payload(0)), "");
  EXPECT_NE(nbd::shortcoming(with_payload(kMiB), with_payload(kMiB / 2)), "");
  EXPECT_EQ(nbd::shortcoming(with_payload(kMiB), with_payload(0)), "");
}

std::string refusal(const std::string& uri) {
  try {
    nbd::Server(uri, true).begin(0);
  } catch (const std::system_error& e) {
    return e.what();
  }
  return "";
}

// libnbd would take any server, and say nothing.
TEST(NbdServer, WithoutAnAuthorityNobodyIsConnectedToByTls) {
  const std::string text = refusal("nbds://localhost:1/?tls-certificates=/nowhere");
  EXPECT_NE(text.find("/nowhere/ca-cert.pem can't be read"), std::string::npos) << text;
  const std::string on_unix = refusal("nbds+unix:///?socket=/nowhere&tls-certificates=/nowhere");
  EXPECT_NE(on_unix.find("by TCP only"), std::string::npos) << on_unix;
  const std::string any = refusal("nbds+unix:///?socket=/nowhere&tls-verify-peer=false");
  EXPECT_NE(any.find("connect"), std::string::npos) << any;
}

}  // namespace
