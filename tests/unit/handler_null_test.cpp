// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Device;
using test::zeroes;

TEST(NullHandler, AdvertisesAllOperationsAndItsSize) {
  const Device disk("null", {{"size", "1G"}});
  EXPECT_EQ(disk.geometry().size, 1u << 30);
  EXPECT_EQ(disk.geometry().flags, UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_FUA | UBLK_GEOMETRY_DISCARD |
                                       UBLK_GEOMETRY_WRITE_ZEROES);
}

TEST(NullHandler, HasASizeByDefault) {
  EXPECT_EQ(Device("null").geometry().size, uint64_t{250} << 30);
}

TEST(NullHandler, RefusesASizeOfBrokenBlocks) {
  try {
    const Device disk("null", {{"size", "4099"}});
    FAIL() << "opened";
  } catch (const test::HandlerError& e) {
    EXPECT_EQ(e.error, EINVAL);
    EXPECT_STREQ(e.what(), "size is 4099 bytes, expected a multiple of 512");
  }
}

TEST(NullHandler, ReadsZeroesIntoABufferThatHeldAnything) {
  Device disk("null");
  std::ranges::fill(disk.queue().buffer(0), std::byte{0xee});
  EXPECT_EQ(disk.read(4096, 8192), zeroes(8192));
}

TEST(NullHandler, ReadsZeroesAfterAWriteDirtiedTheBuffer) {
  Device disk("null");
  EXPECT_EQ(disk.read(0, 65536), zeroes(65536));
  disk.write(0, test::pattern(4096));
  EXPECT_EQ(disk.read(0, 65536), zeroes(65536));
  disk.write(0, test::pattern(131072));
  EXPECT_EQ(disk.read(0, 512), zeroes(512));
  EXPECT_EQ(disk.read(0, 131072), zeroes(131072));
}

TEST(NullHandler, ReadsZeroesIntoABufferThatTookThePlaceOfAnother) {
  Device disk("null");
  EXPECT_EQ(disk.read(0, 65536), zeroes(65536));
  disk.queue().replace_buffer(0);
  EXPECT_EQ(disk.read(0, 65536), zeroes(65536));
}

// The point of the handler's bookkeeping: what is known to be zero is not written again.
TEST(NullHandler, LeavesABufferAloneThatItHasZeroed) {
  Device disk("null");
  disk.read(0, 4096);
  disk.queue().buffer(0)[100] = std::byte{1};
  EXPECT_EQ(disk.read(0, 4096)[100], std::byte{1});
}

TEST(NullHandler, AcceptsWhatChangesNothing) {
  Device disk("null");
  disk.flush();
  disk.discard(0, 1 << 20);
  disk.write_zeroes(4096, 1 << 20, UBLK_REQUEST_FUA);
}

}  // namespace
