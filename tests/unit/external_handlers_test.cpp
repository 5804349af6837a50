// SPDX-License-Identifier: MIT
//
// Handlers that were built outside of the source tree, against the installed headers: run by
// tests/external/run.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Device;

TEST(ExternalHandlers, ServesAHandlerInC) {
  Device disk("numbers", {{"size", "1M"}});
  EXPECT_EQ(disk.geometry().size, 1u << 20);
  EXPECT_TRUE(disk.has(UBLK_GEOMETRY_READ_ONLY));
  const test::Bytes data = disk.read(4096, 4096);
  uint64_t word = 0;
  std::memcpy(&word, data.data() + 16, sizeof(word));
  EXPECT_EQ(word, 4096u + 16);
}

TEST(ExternalHandlers, TellsWhyAHandlerInCRefuses) {
  try {
    const Device disk("numbers", {{"size", "5000"}});
    FAIL() << "opened";
  } catch (const test::HandlerError& e) {
    EXPECT_EQ(e.error, EINVAL);
    EXPECT_STREQ(e.what(), "size is 5000 bytes, expected a multiple of 512");
  }
}

TEST(ExternalHandlers, ServesAHandlerInCpp) {
  const test::TempDir dir;
  const std::string path = dir.make_file("disk.img", 1 << 20);
  Device disk("blocking", {{"path", path}});
  EXPECT_EQ(disk.geometry().flags, UBLK_GEOMETRY_FLUSH);
  disk.write(8192, test::pattern(4096));
  disk.flush();
  EXPECT_EQ(disk.read(8192, 4096), test::pattern(4096));
  EXPECT_EQ(disk.queue().run(UBLK_OP_DISCARD, 0, 4096), -EOPNOTSUPP);
  EXPECT_THROW(Device("blocking", {{"path", path}}, 0, 1, std::chrono::milliseconds(0)),
               test::HandlerError);
}

TEST(ExternalHandlers, ServesAHandlerOfCoroutines) {
  const test::TempDir dir;
  const std::string left = dir.make_file("left.img", 1 << 20);
  const std::string right = dir.make_file("right.img", 1 << 20);
  Device disk("mirror", {{"left", left}, {"right", right}});
  EXPECT_EQ(disk.geometry().flags, UBLK_GEOMETRY_FLUSH);
  disk.write(8192, test::pattern(4096));
  disk.flush();
  EXPECT_EQ(disk.read(8192, 4096), test::pattern(4096));
  EXPECT_EQ(test::file_bytes(left), test::file_bytes(right));
  std::filesystem::resize_file(left, 0);
  EXPECT_EQ(disk.read(8192, 4096), test::pattern(4096)) << "of the other one";
}

}  // namespace
