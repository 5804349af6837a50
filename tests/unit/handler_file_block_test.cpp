// SPDX-License-Identifier: MIT
//
// The file handler on a block device: $UBLK_TEST_BLOCK_DEVICE, which nobody uses and whose data are
// lost. Run by a VM scenario for several kinds of devices.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Bytes;
using test::Device;
using test::HandlerError;
using test::pattern;

constexpr size_t kMiB = 1 << 20;

struct How {
  const char* name;
  const char* direct;
  const char* io;
};

class FileHandlerBlock : public testing::TestWithParam<How> {
 protected:
  void SetUp() override {
    const char* path = std::getenv("UBLK_TEST_BLOCK_DEVICE");
    ASSERT_NE(path, nullptr) << "$UBLK_TEST_BLOCK_DEVICE is not set";
    path_ = path;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0) << path_;
    ASSERT_EQ(ioctl(fd, BLKGETSIZE64, &size_), 0);
    ASSERT_EQ(ioctl(fd, BLKSSZGET, &block_), 0);
    close(fd);
  }

  test::Options options() const {
    return {{"path", path_}, {"direct", GetParam().direct}, {"io", GetParam().io}};
  }

  std::string path_;
  uint64_t size_ = 0;
  int block_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Block, FileHandlerBlock,
                         testing::Values(How{"Buffered", "false", "ring"},
                                         How{"Direct", "true", "ring"},
                                         How{"BufferedWorkers", "false", "workers"},
                                         How{"DirectWorkers", "true", "workers"}),
                         [](const auto& how) { return std::string(how.param.name); });

TEST_P(FileHandlerBlock, IsAsLargeAsTheDevice) {
  const Device disk("file", options());
  EXPECT_EQ(disk.geometry().size, size_);
  EXPECT_EQ(disk.geometry().logical_block_size, static_cast<uint32_t>(block_));
  EXPECT_GE(disk.geometry().physical_block_size, disk.geometry().logical_block_size);
  EXPECT_TRUE(disk.has(UBLK_GEOMETRY_WRITE_ZEROES));
  const char* discard = std::getenv("UBLK_TEST_EXPECT_DISCARD");
  if (discard != nullptr) {
    EXPECT_EQ(disk.has(UBLK_GEOMETRY_DISCARD), std::string("yes") == discard);
  }
}

TEST_P(FileHandlerBlock, IsReadOnlyWhereTheDeviceIs) {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  int on = 1;
  ASSERT_EQ(ioctl(fd, BLKROSET, &on), 0);
  try {
    const Device disk("file", options());
    ADD_FAILURE() << "a disk whose writes all fail";
  } catch (const HandlerError& e) {
    EXPECT_NE(std::string(e.what()).find("is write-protected"), std::string::npos) << e.what();
  }
  Device("file", options(), UBLK_OPEN_READ_ONLY);
  Device("file", options(), UBLK_OPEN_RECOVERING);
  on = 0;
  EXPECT_EQ(ioctl(fd, BLKROSET, &on), 0);
  close(fd);
}

TEST_P(FileHandlerBlock, KeepsWhatIsWrittenUpToItsLastBlock) {
  const Bytes first = pattern(kMiB, 1);
  const Bytes last = pattern(65536, 2);
  {
    Device disk("file", options());
    disk.write(0, first, UBLK_REQUEST_FUA);
    disk.write(size_ - last.size(), last);
    disk.flush();
  }
  Device disk("file", options());
  EXPECT_EQ(disk.read(0, kMiB), first);
  EXPECT_EQ(disk.read(size_ - last.size(), 65536), last);
}

TEST_P(FileHandlerBlock, ReadsZeroesWhereZeroesWereWritten) {
  Device disk("file", options());
  const auto block = static_cast<size_t>(block_);
  for (const uint32_t flags :
       {0u, uint32_t{UBLK_REQUEST_NO_UNMAP}, uint32_t{UBLK_REQUEST_NO_UNMAP | UBLK_REQUEST_FUA}}) {
    for (const auto& [first, count] :
         std::vector<std::pair<size_t, size_t>>{{0, 1}, {7, 9}, {3, 100}, {8, 128}}) {
      Bytes expected = pattern(kMiB);
      disk.write(0, expected);
      disk.write_zeroes(first * block, count * block, flags);
      std::fill_n(expected.begin() + first * block, count * block, std::byte{0});
      EXPECT_EQ(disk.read(0, kMiB), expected) << first << '+' << count << " flags " << flags;
    }
  }
}

// What discarded blocks hold is the device's affair.
TEST_P(FileHandlerBlock, DiscardsNothingElse) {
  Device disk("file", options());
  if (!disk.has(UBLK_GEOMETRY_DISCARD)) GTEST_SKIP() << "no discard";
  Bytes expected = pattern(kMiB);
  disk.write(0, expected);
  disk.discard(65536, 262144);
  Bytes after = disk.read(0, kMiB);
  std::fill_n(expected.begin() + 65536, 262144, std::byte{0});
  std::fill_n(after.begin() + 65536, 262144, std::byte{0});
  EXPECT_EQ(after, expected);
}

TEST_P(FileHandlerBlock, ServesAPart) {
  test::Options part = options();
  part["offset"] = "1M";
  part["size"] = "64K";
  Device disk("file", part);
  EXPECT_EQ(disk.geometry().size, 65536u);
  part["size"] = std::to_string(size_);
  try {
    const Device too_large("file", part, 0, 1, std::chrono::milliseconds(0));
    FAIL() << "opened";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, EBUSY) << e.what();  // by the first device: sizes are looked at when locked
  }
}

TEST_P(FileHandlerBlock, RefusesASizeBeyondTheDevice) {
  test::Options large = options();
  large["size"] = std::to_string(size_ + 65536);
  large["create"] = "true";
  try {
    const Device disk("file", large);
    FAIL() << "opened";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, EINVAL);
    EXPECT_NE(std::string(e.what()).find(", the device needs "), std::string::npos) << e.what();
  }
}

TEST_P(FileHandlerBlock, ClaimsTheDeviceForAWriter) {
  const Device disk("file", options());
  const int fd = open(path_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  EXPECT_LT(fd, 0);
  EXPECT_EQ(errno, EBUSY);
}

TEST_P(FileHandlerBlock, RefusesADeviceThatIsClaimed) {
  const int fd = open(path_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  try {
    const Device disk("file", options());
    ADD_FAILURE() << "opened";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, EBUSY);
    EXPECT_NE(std::string(e.what()).find(path_ + ": is in use"), std::string::npos) << e.what();
  }
  EXPECT_EQ(Device("file", options(), UBLK_OPEN_READ_ONLY).geometry().size, size_)
      << "a reader disturbs nobody";
  close(fd);
}

}  // namespace
