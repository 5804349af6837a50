// SPDX-License-Identifier: MIT
// What an image says of itself is what the device is, while it lives, too.
#include <ublk/abi.h>
#include <ublk/control.h>

#include <string>

#include "rbd_client.h"

namespace ceph_test {
namespace {

namespace abi = ublk::abi;

using RbdSizeTest = RbdTest;

TEST_F(RbdSizeTest, TheDeviceFollowsItsImage) {
  add_rbd("disk");
  ASSERT_TRUE(start().failed.empty());
  const RbdImage image(client_.pool(), config_.devices[0].options["image"].value);
  std::vector<std::byte> data(512);
  for (const uint64_t size : {2 * kSize, kSize / 2}) {
    check(rbd_resize(image.get(), size));
    ASSERT_TRUE(until([&] { return driver().disk(0)->sectors() == size / 512; }));
    EXPECT_EQ(driver().disk(0)->read(size / 512 - 1, 1, data.data()), 0);
    EXPECT_EQ(driver().disk(0)->write(size / 512 - 1, 1, data.data()), 0);
  }
}

TEST_F(RbdSizeTest, HintsAreTheImages) {
  add_rbd("disk");
  ASSERT_TRUE(start().failed.empty());
  const abi::Params params = ublk::Control(driver()).params(0);
  EXPECT_EQ(1u << params.basic.io_opt_shift, 4u << 20);
  EXPECT_EQ(params.discard.discard_granularity, 65536u);
  EXPECT_EQ(params.basic.attrs & abi::kAttrVolatileCache, 0u) << "what is confirmed is durable";
}

// An image may have settings of its own, which have the last word, written in several ways.
class RbdCacheTest : public RbdTest, public testing::WithParamInterface<const char*> {};

INSTANTIATE_TEST_SUITE_P(, RbdCacheTest, testing::Values("true", "1", "True"));

TEST_P(RbdCacheTest, AWriteBackCacheMakesAVolatileCacheThatFlushEmpties) {
  const std::string name = create_image("cached");
  const RbdImage image(client_.pool(), name);
  check(rbd_metadata_set(image.get(), "conf_rbd_cache", GetParam()));
  check(rbd_metadata_set(image.get(), "conf_rbd_cache_policy", "writeback"));
  check(rbd_metadata_set(image.get(), "conf_rbd_cache_writethrough_until_flush", "false"));
  add_rbd("disk", {{"image", name}});
  ASSERT_TRUE(start().failed.empty());
  const abi::Params params = ublk::Control(driver()).params(0);
  EXPECT_EQ(params.basic.attrs & (abi::kAttrVolatileCache | abi::kAttrFua),
            abi::kAttrVolatileCache | abi::kAttrFua);
  const auto disk = driver().disk(0);
  const std::vector<std::byte> data(4096, std::byte{7});
  const std::vector<std::byte> zeroes(4096);
  ASSERT_EQ(disk->write(0, 8, data.data()), 0);
  EXPECT_EQ(image.read(0, 4096), zeroes) << "it is not cached, so this test shows nothing";
  ASSERT_EQ(disk->flush(), 0);
  EXPECT_EQ(image.read(0, 4096), data);
  ASSERT_EQ(disk->write(8, 8, data.data(), abi::kIoFlagFua), 0);
  EXPECT_EQ(image.read(4096, 4096), data);
}

}  // namespace
}  // namespace ceph_test
