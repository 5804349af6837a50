// SPDX-License-Identifier: MIT
//
// A server that comes back with less than a device was made for is found out.
#include <gtest/gtest.h>

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

}  // namespace
