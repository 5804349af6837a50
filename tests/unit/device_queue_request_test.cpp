// SPDX-License-Identifier: MIT
// Which requests reach the handler, and with what memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "device_queue_fixture.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, OnlyWhatTheRulesAllowReachesTheHandler) {
  open();
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512 - 4096, 4096)), 4096);
  EXPECT_EQ(seen().size(), 1u);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, kSectors * 512 - 4096, 8192)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, UINT64_MAX - 511, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 512, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 0)), -EIO);
  EXPECT_EQ(result_of(request(static_cast<ublk_op>(13), 0, 4096)), -EOPNOTSUPP);
  EXPECT_EQ(result_of(request(static_cast<ublk_op>(100), 0, 4096)), -EOPNOTSUPP);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, TheDeviceEndsAfterItsLastSector) {
  open({.sectors = kSectors, .block_sectors = 1, .max_sectors = 128, .operations = 0x2f});
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, (kSectors - 1) * 512, 512)), 512);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, (kSectors - 1) * 512, 1024)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512, 512)), -EIO);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, ARequestPastTheTagsBufferIsRefused) {
  open({.sectors = kSectors, .block_sectors = 8, .max_sectors = 128, .operations = 0x2f});
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 128 * 512)), 128 * 512);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 136 * 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 136 * 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_DISCARD, 0, 136 * 512)), 0);
  EXPECT_EQ(seen().size(), 2u);
}

TEST_P(DeviceQueueTest, AReadOnlyDeviceIsNotWritten) {
  open({.sectors = kSectors,
        .block_sectors = 8,
        .operations = 1 << UBLK_OP_READ,
        .read_only = true});
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096)), 4096);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096)), -EROFS);
  EXPECT_EQ(result_of(request(UBLK_OP_DISCARD, 0, 4096)), -EROFS);
  EXPECT_EQ(result_of(request(UBLK_OP_FLUSH, 0, 0)), -EOPNOTSUPP);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, ScratchIsAlignedZeroedAndTheTags) {
  open();
  set_handler([](ublk_request& r) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(r.scratch) % 64, 0u);
    auto* bytes = static_cast<unsigned char*>(r.scratch);
    for (uint32_t i = 0; i < kScratchSize; ++i) EXPECT_EQ(bytes[i], bytes[0]);
    std::fill_n(bytes, kScratchSize, static_cast<unsigned char>(bytes[0] + 1));
    return static_cast<int>(r.length) - bytes[0] + 1;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 1), 4096);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 2), 4096) << "another tag, another scratch";
  set_handler([](ublk_request& r) {
    return *static_cast<unsigned char*>(r.scratch) == 1 ? static_cast<int>(r.length) : -EINVAL;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 1), 4096) << "it is left alone";
}

TEST_P(DeviceQueueTest, ABufferIsTheTagsOwnUnlessAWriteWasRefused) {
  open();
  const auto flags_of = [&](ublk_op op, uint64_t offset) {
    result_of(request(op, offset, 4096));
    return seen().back().flags & UBLK_REQUEST_TAG_BUFFER;
  };
  EXPECT_NE(flags_of(UBLK_OP_READ, 0), 0u);
  EXPECT_NE(flags_of(UBLK_OP_WRITE, 0), 0u);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, kSectors * abi::kSectorSize, 4096)), -EIO);
  EXPECT_EQ(flags_of(UBLK_OP_READ, 0), 0u) << "the refused write's data are in it";
  EXPECT_NE(flags_of(UBLK_OP_READ, 0), 0u);
}

}  // namespace
}  // namespace ublk_runner
