// SPDX-License-Identifier: MIT
//
// Which files the file handler opens, creates and refuses, and what it says.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Device;
using test::HandlerError;
using test::Options;
using test::TempDir;

constexpr uint64_t kMiB = 1 << 20;

class FileHandlerOpen : public testing::Test {
 protected:
  // Expects that the device is refused with this errno and with a text that names the file and
  // contains `text`.
  void expect_refused(const Options& options, int error, const std::string& text,
                      uint32_t flags = 0) {
    try {
      const Device disk("file", options, flags);
      FAIL() << "opened; expected: " << text;
    } catch (const HandlerError& e) {
      EXPECT_EQ(e.error, error) << e.what();
      EXPECT_EQ(std::string(e.what()).find(options.at("path") + ": "), 0u) << e.what();
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  }

  TempDir dir_;
  const std::string path_ = dir_ / "disk.img";
};

TEST_F(FileHandlerOpen, RefusesAMissingFile) {
  expect_refused({{"path", path_}}, ENOENT, "cannot be opened (create = true would make it)");
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(FileHandlerOpen, RefusesWhatIsNoFile) {
  expect_refused({{"path", dir_.path()}}, EINVAL, "is a directory");
  expect_refused({{"path", "/dev/null"}}, EINVAL, "is a character device");
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  expect_refused({{"path", path_}}, EINVAL, "is neither a file nor a block device");
}

TEST_F(FileHandlerOpen, RefusesAFileThatItMayNotWrite) {
  dir_.make_file("disk.img", kMiB);
  // Root may do anything, except make a file where the kernel has only its own.
  if (geteuid() != 0) {
    ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
    expect_refused({{"path", path_}}, EACCES, "cannot be opened for reading and writing");
    ASSERT_EQ(chmod(path_.c_str(), 0), 0);
    expect_refused({{"path", path_}}, EACCES, "cannot be opened for reading: Permission denied",
                   UBLK_OPEN_READ_ONLY);
  } else {
    expect_refused({{"path", "/sys/kernel/nothing"}, {"create", "true"}, {"size", "1M"}}, EACCES,
                   "cannot be created: Permission denied");
  }
}

TEST_F(FileHandlerOpen, TakesTheSizeFromTheFile) {
  dir_.make_file("disk.img", kMiB);
  const Device disk("file", {{"path", path_}});
  EXPECT_EQ(disk.geometry().size, kMiB);
  EXPECT_EQ(disk.geometry().logical_block_size, 512u);
  EXPECT_TRUE(disk.log.empty());
  EXPECT_EQ(disk.geometry().flags, UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_FUA | UBLK_GEOMETRY_DISCARD |
                                       UBLK_GEOMETRY_WRITE_ZEROES | UBLK_GEOMETRY_ZERO_COPY);
}

TEST_F(FileHandlerOpen, LeavesOutABrokenLastBlockAndSaysSo) {
  dir_.make_file("disk.img", kMiB + 700);
  const Device disk("file", {{"path", path_}});
  EXPECT_EQ(disk.geometry().size, kMiB + 512);
  ASSERT_EQ(disk.log.size(), 1u);
  EXPECT_EQ(disk.log[0],
            "1 " + path_ + ": the last 188 bytes are not part of the device: no whole block");
}

TEST_F(FileHandlerOpen, StartsAtTheOffset) {
  dir_.make_file("disk.img", kMiB);
  EXPECT_EQ(Device("file", {{"path", path_}, {"offset", "4096"}}).geometry().size, kMiB - 4096);
  EXPECT_EQ(Device("file", {{"path", path_}, {"offset", "512"}}).geometry().discard_alignment,
            4096u - 512u);
  EXPECT_EQ(Device("file", {{"path", path_}, {"offset", "8192"}}).geometry().discard_alignment, 0u);
}

TEST_F(FileHandlerOpen, RefusesAnOffsetThatDoesNotFit) {
  dir_.make_file("disk.img", kMiB);
  expect_refused({{"path", path_}, {"offset", "1000"}}, EINVAL,
                 "offset is 1000 bytes, expected a multiple of the block size, 512");
  expect_refused({{"path", path_}, {"offset", "1M"}}, EINVAL,
                 "offset is 1048576 bytes, but the file has only 1048576 bytes");
  expect_refused({{"path", path_}, {"size", "1M"}, {"offset", "8191P"}, {"create", "true"}}, EFBIG,
                 "cannot be made");
  expect_refused({{"path", path_}, {"size", "8K"}, {"offset", "18446744073709547520"}}, EINVAL,
                 "offset and size add up to more than a file can have");
  expect_refused({{"path", path_}, {"size", "8P"}, {"offset", "8191P"}, {"create", "true"}}, EINVAL,
                 "more than a file can have");
}

TEST_F(FileHandlerOpen, RefusesAnEmptyFile) {
  dir_.make_file("disk.img", 0);
  expect_refused({{"path", path_}}, EINVAL, "but the file has only 0 bytes");
  dir_.make_file("disk.img", 100);
  expect_refused({{"path", path_}}, EINVAL, "less than a block of 512");
}

TEST_F(FileHandlerOpen, ServesAPartWhenTheSizeIsSmaller) {
  dir_.make_file("disk.img", kMiB);
  const Device disk("file", {{"path", path_}, {"size", "64K"}});
  EXPECT_EQ(disk.geometry().size, 65536u);
  EXPECT_EQ(test::file_size(path_), kMiB);
}

TEST_F(FileHandlerOpen, RefusesASizeThatDoesNotFit) {
  dir_.make_file("disk.img", kMiB);
  expect_refused({{"path", path_}, {"size", "5000"}}, EINVAL,
                 "size is 5000 bytes, expected a multiple of the block size, 512");
  expect_refused({{"path", path_}, {"size", "2M"}}, EINVAL,
                 "has 1048576 bytes, the device needs 2097152 bytes (create = true");
  expect_refused({{"path", path_}, {"size", "1M"}, {"offset", "4K"}}, EINVAL,
                 "has 1048576 bytes, the device needs 1052672 bytes");
  EXPECT_EQ(test::file_size(path_), kMiB);
}

TEST_F(FileHandlerOpen, CreatesAFileOnlyWhenAskedAndOnlyForItsOwner) {
  const Device disk("file",
                    {{"path", path_}, {"size", "1M"}, {"create", "true"}, {"offset", "4K"}});
  EXPECT_EQ(disk.geometry().size, kMiB);
  EXPECT_EQ(test::file_size(path_), kMiB + 4096);
  struct stat st {};
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(FileHandlerOpen, MakesAShorterFileLongerOnlyWhenAsked) {
  dir_.make_file("disk.img", kMiB);
  EXPECT_EQ(Device("file", {{"path", path_}, {"size", "2M"}, {"create", "true"}}).geometry().size,
            2 * kMiB);
  EXPECT_EQ(test::file_size(path_), 2 * kMiB);
  EXPECT_EQ(Device("file", {{"path", path_}, {"size", "1M"}, {"create", "true"}}).geometry().size,
            kMiB);
  EXPECT_EQ(test::file_size(path_), 2 * kMiB) << "it never becomes shorter";
}

TEST_F(FileHandlerOpen, NeedsASizeToCreate) {
  expect_refused({{"path", path_}, {"create", "true"}}, EINVAL, "needs a size");
  EXPECT_FALSE(std::filesystem::exists(path_));
  dir_.make_file("disk.img", kMiB);
  expect_refused({{"path", path_}, {"create", "true"}}, EINVAL, "create = true needs a size");
}

TEST_F(FileHandlerOpen, CreatesNoFileInTheFolderOfDeviceNodes) {
  expect_refused({{"path", "/dev/ublk-test-disk"}, {"size", "1M"}, {"create", "true"}}, ENOENT,
                 "a plain file among the device nodes");
}

TEST_F(FileHandlerOpen, PutsNoEmptyFileInThePlaceOfALostOne) {
  expect_refused({{"path", path_}, {"size", "1M"}, {"create", "true"}}, ENOENT,
                 "held the data of this device and is gone", UBLK_OPEN_RECOVERING);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(FileHandlerOpen, LeavesNothingBehindWhenItFails) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{.rlim_cur = kMiB, .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_refused({{"path", path_}, {"size", "2M"}, {"create", "true"}}, EFBIG,
                 "cannot be made 2097152 bytes long");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(FileHandlerOpen, ServesAReadOnlyFileWithoutWritingToIt) {
  dir_.make_file("disk.img", kMiB);
  ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
  Device disk("file", {{"path", path_}}, UBLK_OPEN_READ_ONLY);
  EXPECT_TRUE(disk.has(UBLK_GEOMETRY_READ_ONLY));
  EXPECT_FALSE(disk.has(UBLK_GEOMETRY_DISCARD));
  EXPECT_FALSE(disk.has(UBLK_GEOMETRY_WRITE_ZEROES));
  EXPECT_EQ(disk.read(0, 4096), test::zeroes(4096));
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 512), -EBADF) << "the descriptor can't write";
}

TEST_F(FileHandlerOpen, ChangesNothingForAReadOnlyDevice) {
  const Options options = {{"path", path_}, {"size", "2M"}, {"create", "true"}};
  expect_refused(options, ENOENT, "is not created for a read-only device", UBLK_OPEN_READ_ONLY);
  EXPECT_FALSE(std::filesystem::exists(path_));
  dir_.make_file("disk.img", kMiB);
  expect_refused(options, EINVAL, "the device needs 2097152 bytes", UBLK_OPEN_READ_ONLY);
  EXPECT_EQ(test::file_size(path_), kMiB);
}

TEST_F(FileHandlerOpen, TakesTheBlockSizeThatDirectNeeds) {
  dir_.make_file("disk.img", kMiB + 512);
  struct statx stx {};
  const int error = statx(AT_FDCWD, path_.c_str(), 0, STATX_DIOALIGN, &stx);
  if (error != 0 || !(stx.stx_mask & STATX_DIOALIGN) || stx.stx_dio_offset_align == 0)
    GTEST_SKIP() << "the file system of " << dir_.path() << " does not tell";
  const Device disk("file", {{"path", path_}, {"direct", "true"}});
  const uint32_t block = std::max(512u, stx.stx_dio_offset_align);
  EXPECT_EQ(disk.geometry().logical_block_size, block);
  EXPECT_EQ(disk.geometry().size, (kMiB + 512) / block * block);
  EXPECT_EQ(disk.geometry().dma_alignment, std::max(4u, stx.stx_dio_mem_align));
}

TEST_F(FileHandlerOpen, RefusesDirectWhereTheFileSystemCannot) {
  // A memfd has no O_DIRECT on kernels before 6.6, and tells no alignment on later ones.
  const TempDir shm("/dev/shm");
  const std::string path = shm.make_file("disk.img", kMiB + 512);
  const int fd = open(path.c_str(), O_RDWR | O_DIRECT);
  if (fd < 0) {
    expect_refused({{"path", path}, {"direct", "true"}}, EINVAL, "direct = true");
  } else {
    close(fd);
    EXPECT_EQ(Device("file", {{"path", path}, {"direct", "true"}}).geometry().logical_block_size,
              4096u);
  }
}

}  // namespace
