// SPDX-License-Identifier: MIT
//
// What the file handler does to a file, on a disk's file system and on tmpfs, which lacks some
// commands, through the page cache and past it, on the ring and on workers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Bytes;
using test::Device;
using test::Options;
using test::pattern;
using test::TempDir;
using test::zeroes;

constexpr size_t kMiB = 1 << 20;

struct Where {
  const char* name;
  const char* folder;
  const char* direct;
  const char* io = "ring";
};

class FileHandlerIo : public testing::TestWithParam<Where> {
 protected:
  FileHandlerIo() : dir_(GetParam().folder) {}

  void SetUp() override {
    if (std::string("true") != GetParam().direct) return;
    const int fd = open(path_.c_str(), O_RDONLY | O_DIRECT);
    if (fd < 0) GTEST_SKIP() << "no O_DIRECT in " << dir_.path();
    close(fd);
  }

  Options options(const Options& more = {}) const {
    Options all = {{"path", path_}, {"direct", GetParam().direct}, {"io", GetParam().io}};
    all.insert(more.begin(), more.end());
    return all;
  }

  TempDir dir_;
  const std::string path_ = dir_.make_file("disk.img", 4 * kMiB);
};

INSTANTIATE_TEST_SUITE_P(Files, FileHandlerIo,
                         testing::Values(Where{"Disk", "/var/tmp", "false"},
                                         Where{"DiskDirect", "/var/tmp", "true"},
                                         Where{"Tmpfs", "/dev/shm", "false"},
                                         Where{"DiskWorkers", "/var/tmp", "false", "workers"},
                                         Where{"DiskDirectWorkers", "/var/tmp", "true", "workers"},
                                         Where{"TmpfsWorkers", "/dev/shm", "false", "workers"}),
                         [](const auto& where) { return std::string(where.param.name); });

TEST_P(FileHandlerIo, GivesBackWhatWasWrittenAtAnyOffsetAndLength) {
  Device disk("file", options());
  const size_t block = disk.geometry().logical_block_size;
  Bytes expected = zeroes(4 * kMiB);
  uint32_t seed = 1;
  for (const size_t first : {0, 1, 7, 8, 130, 255, 400}) {
    for (const size_t count : {1, 2, 8, 9, 127, 255}) {
      const Bytes data = pattern(count * block, seed++);
      EXPECT_EQ(disk.write(first * block, data), static_cast<int>(data.size()));
      std::ranges::copy(data, expected.begin() + first * block);
    }
  }
  for (size_t at = 0; at < 4 * kMiB; at += kMiB)
    EXPECT_TRUE(std::ranges::equal(disk.read(at, kMiB), std::span(expected).subspan(at, kMiB)))
        << at;
  disk.flush();
  EXPECT_EQ(test::file_bytes(path_), expected);
}

TEST_P(FileHandlerIo, ServesTheVeryEnd) {
  Device disk("file", options());
  const Bytes data = pattern(4096);
  disk.write(4 * kMiB - 4096, data);
  EXPECT_EQ(disk.read(4 * kMiB - 4096, 4096), data);
  disk.write_zeroes(4 * kMiB - 4096, 4096);
  EXPECT_EQ(disk.read(4 * kMiB - 4096, 4096), zeroes(4096));
  EXPECT_EQ(test::file_size(path_), 4 * kMiB);
}

TEST_P(FileHandlerIo, TouchesNothingOutsideItsPartOfTheFile) {
  const Bytes before = pattern(4 * kMiB, 7);
  const int fd = open(path_.c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, before.data(), before.size(), 0), 4 * kMiB);
  close(fd);
  {
    Device disk("file", options({{"offset", "1M"}, {"size", "64K"}}));
    ASSERT_EQ(disk.geometry().size, 65536u);
    EXPECT_EQ(disk.read(0, 4096), Bytes(before.begin() + kMiB, before.begin() + kMiB + 4096));
    disk.write(0, pattern(65536));
    disk.discard(0, 65536);
    disk.write_zeroes(0, 65536, UBLK_REQUEST_NO_UNMAP);
    disk.write(4096, pattern(4096));
    disk.flush();
  }
  Bytes expected = before;
  std::fill_n(expected.begin() + kMiB, 65536, std::byte{0});
  std::ranges::copy(pattern(4096), expected.begin() + kMiB + 4096);
  EXPECT_EQ(test::file_bytes(path_), expected);
}

TEST_P(FileHandlerIo, FreesWhatIsDiscarded) {
  Device disk("file", options());
  for (size_t at = 0; at < 4 * kMiB; at += kMiB) disk.write(at, pattern(kMiB));
  disk.flush();
  ASSERT_GE(test::allocated_bytes(path_), 4 * kMiB);
  disk.discard(kMiB, kMiB);
  EXPECT_LE(test::allocated_bytes(path_), 3 * kMiB + 65536);
  EXPECT_EQ(disk.read(kMiB, kMiB), zeroes(kMiB));
  disk.write_zeroes(2 * kMiB, kMiB);
  EXPECT_LE(test::allocated_bytes(path_), 2 * kMiB + 65536);
  EXPECT_EQ(disk.read(2 * kMiB, kMiB), zeroes(kMiB));
  disk.write_zeroes(0, kMiB, UBLK_REQUEST_NO_UNMAP);
  EXPECT_GE(test::allocated_bytes(path_), 2 * kMiB) << "what must stay allocated was freed";
  EXPECT_EQ(disk.read(0, kMiB), zeroes(kMiB));
  EXPECT_EQ(disk.read(3 * kMiB, kMiB), pattern(kMiB));
}

TEST_P(FileHandlerIo, ReadsZeroesWhereZeroesWereWritten) {
  Device disk("file", options());
  const size_t block = disk.geometry().logical_block_size;
  for (const uint32_t flags : {0u, uint32_t{UBLK_REQUEST_NO_UNMAP}, uint32_t{UBLK_REQUEST_FUA},
                               uint32_t{UBLK_REQUEST_NO_UNMAP | UBLK_REQUEST_FUA}}) {
    for (const auto& [first, count] : std::vector<std::pair<size_t, size_t>>{
             {0, 1}, {1, 1}, {7, 10}, {8, 8}, {3, 200}, {0, kMiB / block}}) {
      Bytes expected = pattern(kMiB);
      disk.write(0, expected);
      disk.write_zeroes(first * block, count * block, flags);
      std::fill_n(expected.begin() + first * block, count * block, std::byte{0});
      EXPECT_EQ(disk.read(0, kMiB), expected) << first << '+' << count << " flags " << flags;
    }
  }
}

TEST_P(FileHandlerIo, ServesAllTagsAtOnce) {
  Device disk("file", options());
  test::Queue& queue = disk.queue();
  for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag) {
    std::ranges::copy(pattern(65536, tag), queue.buffer(tag).begin());
    queue.start(tag, UBLK_OP_WRITE, tag * uint64_t{65536}, 65536);
  }
  for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag) EXPECT_EQ(queue.finish(tag), 65536);
  for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag)
    queue.start(tag, UBLK_OP_READ, tag * uint64_t{65536}, 65536);
  for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag) {
    EXPECT_EQ(queue.finish(tag), 65536);
    EXPECT_TRUE(std::ranges::equal(queue.buffer(tag).first(65536), pattern(65536, tag))) << tag;
  }
  EXPECT_EQ(disk.wrong_completions, 0u);
}

TEST_P(FileHandlerIo, FailsAReadOfWhatWasCutOff) {
  Device disk("file", options());
  disk.write(0, pattern(kMiB));
  std::filesystem::resize_file(path_, 8192);
  EXPECT_EQ(disk.read(0, 8192).size(), 8192u);
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 4096, 8192), 4096) << "what is there, to begin with";
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 8192, 4096), -EIO);
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, kMiB, 4096), -EIO);
  ASSERT_EQ(disk.log.size(), 1u) << "told once";
  EXPECT_EQ(disk.log[0].find("0 " + path_ + ": ends before byte 8192"), 0u) << disk.log[0];
}

// No process may write past RLIMIT_FSIZE, not even where the file is long enough.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*signal_)(int);
};

TEST_P(FileHandlerIo, WritesUpToALimitAndPassesTheErrorOn) {
  Device disk("file", options());
  std::ranges::copy(pattern(65536), disk.queue().buffer(0).begin());
  for (const uint32_t flags : {0u, uint32_t{UBLK_REQUEST_FUA}}) {
    const FileSizeLimit limit(2 * kMiB);
    EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 2 * kMiB - 8192, 65536, flags), 8192) << flags;
    EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 2 * kMiB, 65536, flags), -EFBIG) << flags;
    EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 3 * kMiB, 65536, flags), -EFBIG) << flags;
  }
  disk.flush();
  EXPECT_EQ(disk.read(2 * kMiB - 8192, 8192), pattern(8192));
  EXPECT_EQ(disk.read(2 * kMiB, 65536), zeroes(65536));
}

}  // namespace
