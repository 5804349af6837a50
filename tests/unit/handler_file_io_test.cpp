// SPDX-License-Identifier: MIT
//
// What the file handler does to a file, on a disk's file system and on tmpfs, which lacks some
// commands, through the page cache and past it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
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

// One SQE that the handler has put on the ring.
struct Seen {
  unsigned opcode;
  uint64_t offset;
  uint64_t length;  // of fallocate: in addr
  unsigned flags;   // rw_flags or fsync_flags; of fallocate: the mode
};

Seen see(const io_uring_sqe& sqe) {
  if (sqe.opcode == IORING_OP_FALLOCATE) return {sqe.opcode, sqe.off, sqe.addr, sqe.len};
  return {sqe.opcode, sqe.off, sqe.len, static_cast<unsigned>(sqe.rw_flags)};
}

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

// ------------------------------------------- what is put on the ring, and its errors --

class FileHandlerRing : public testing::Test {
 protected:
  // Records each SQE, and gives those of an opcode the results that are queued for it.
  FileHandlerRing() {
    disk_.on_sqe = [this](const io_uring_sqe& sqe) -> std::optional<int> {
      seen_.push_back(see(sqe));
      auto& results = results_[sqe.opcode];
      if (results.empty()) return std::nullopt;
      const int result = results.front();
      results.erase(results.begin());
      return result;
    };
  }

  int run(ublk_op op, size_t length = 4096, uint32_t flags = 0) {
    seen_.clear();
    return disk_.queue().run(op, 0, static_cast<uint32_t>(length), flags);
  }
  std::vector<unsigned> opcodes() const {
    std::vector<unsigned> opcodes;
    for (const Seen& seen : seen_) opcodes.push_back(seen.opcode);
    return opcodes;
  }

  TempDir dir_{"/var/tmp"};
  const std::string path_ = dir_.make_file("disk.img", 4 * kMiB);
  Device disk_{"file", {{"path", path_}}};
  std::vector<Seen> seen_;
  std::map<unsigned, std::vector<int>> results_;
};

using Opcodes = std::vector<unsigned>;

TEST_F(FileHandlerRing, SyncsDataOnFlush) {
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), 0);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_FSYNC});
  EXPECT_EQ(seen_[0].flags, IORING_FSYNC_DATASYNC);
}

TEST_F(FileHandlerRing, WritesDurablyOnlyWithFua) {
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_WRITE});
  EXPECT_EQ(seen_[0].flags, 0u);
  EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), 4096);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_WRITE});
  EXPECT_EQ(seen_[0].flags, static_cast<unsigned>(RWF_DSYNC));
}

TEST_F(FileHandlerRing, SyncsZeroesOnlyWithFua) {
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES), 0);
  EXPECT_EQ(opcodes(), Opcodes{IORING_OP_FALLOCATE});
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_FUA), 0);
  EXPECT_EQ(opcodes(), (Opcodes{IORING_OP_FALLOCATE, IORING_OP_FSYNC}));
}

TEST_F(FileHandlerRing, FreesSpaceOnlyWhereItMay) {
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_NO_UNMAP), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE});
  EXPECT_EQ(run(UBLK_OP_DISCARD), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
}

TEST_F(FileHandlerRing, PassesErrorsOn) {
  for (const int error : {-ENOSPC, -EIO, -EDQUOT}) {
    results_[IORING_OP_WRITE] = {error};
    EXPECT_EQ(run(UBLK_OP_WRITE), error);
    results_[IORING_OP_READ] = {error};
    EXPECT_EQ(run(UBLK_OP_READ), error);
    results_[IORING_OP_FALLOCATE] = {error};
    EXPECT_EQ(run(UBLK_OP_DISCARD), error);
    results_[IORING_OP_FALLOCATE] = {error};
    EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES), error);
  }
}

TEST_F(FileHandlerRing, TriesAgainWhatWasInterrupted) {
  results_[IORING_OP_WRITE] = {-EINTR, -EAGAIN, -EINTR};
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096);
  EXPECT_EQ(seen_.size(), 4u);
  results_[IORING_OP_FALLOCATE] = {-EINTR};
  EXPECT_EQ(run(UBLK_OP_DISCARD), 0);
  EXPECT_EQ(seen_.size(), 2u);
}

TEST_F(FileHandlerRing, GivesUpAfterASecond) {
  results_[IORING_OP_READ] = std::vector<int>(100, -EAGAIN);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(run(UBLK_OP_READ), -EIO);
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GT(took, std::chrono::milliseconds(500)) << "busy";
  EXPECT_EQ(seen_.size(), 11u);
}

TEST_F(FileHandlerRing, ReturnsAShortResultAsItIs) {
  results_[IORING_OP_READ] = {1024};
  EXPECT_EQ(run(UBLK_OP_READ), 1024);
  results_[IORING_OP_WRITE] = {1000};
  EXPECT_EQ(run(UBLK_OP_WRITE), 1000);
}

// So that the rest is aligned.
TEST_F(FileHandlerRing, CutsAShortResultToWholeBlocksWhenDirect) {
  const std::string path = dir_.make_file("direct.img", kMiB);
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECT);
  if (fd < 0) GTEST_SKIP() << "no O_DIRECT in " << dir_.path();
  close(fd);
  Device disk("file", {{"path", path}, {"direct", "true"}});
  const int block = static_cast<int>(disk.geometry().logical_block_size);
  int result = 2 * block + 100;
  disk.on_sqe = [&](const io_uring_sqe&) { return result; };
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 65536), 2 * block);
  result = 100;
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 65536), -EIO);
}

TEST_F(FileHandlerRing, FallsBackToWhatTheFileSystemHas) {
  disk_.write(0, pattern(kMiB));
  results_[IORING_OP_FALLOCATE] = {-EOPNOTSUPP, -EOPNOTSUPP};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB), 0);
  EXPECT_EQ(opcodes(), (Opcodes{IORING_OP_FALLOCATE, IORING_OP_FALLOCATE, IORING_OP_WRITE,
                                IORING_OP_WRITE, IORING_OP_WRITE, IORING_OP_WRITE}));
  EXPECT_EQ(disk_.read(0, kMiB), zeroes(kMiB));
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096), 0);
  EXPECT_EQ(opcodes(), Opcodes{IORING_OP_WRITE}) << "what it has not is asked for once";
}

TEST_F(FileHandlerRing, DoesNotCallZeroedWhatIsZeroedInPart) {
  results_[IORING_OP_FALLOCATE] = {-EOPNOTSUPP, -EOPNOTSUPP};
  results_[IORING_OP_WRITE] = {256 << 10, -ENOSPC};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB, UBLK_REQUEST_FUA), -ENOSPC);
  results_[IORING_OP_WRITE] = {256 << 10, 0};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB), -EIO);
}

TEST_F(FileHandlerRing, WritesTheRestOfZeroesAfterAShortResult) {
  disk_.write(0, pattern(kMiB));
  bool first = true;
  results_[IORING_OP_FALLOCATE] = {-EOPNOTSUPP, -EOPNOTSUPP};
  disk_.on_sqe = [&](const io_uring_sqe& sqe) -> std::optional<int> {
    seen_.push_back(see(sqe));
    if (sqe.opcode == IORING_OP_FALLOCATE) return -EOPNOTSUPP;
    if (!std::exchange(first, false)) return std::nullopt;
    return 4096;  // nothing is written, so these bytes keep their data
  };
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 65536), 0);
  ASSERT_EQ(seen_.size(), 4u);
  EXPECT_EQ(seen_[3].offset, 4096u);
  EXPECT_EQ(seen_[3].length, 61440u);
  Bytes expected = pattern(kMiB);
  std::fill(expected.begin() + 4096, expected.begin() + 65536, std::byte{0});
  EXPECT_EQ(disk_.read(0, kMiB), expected);
}

TEST_F(FileHandlerRing, FailsZeroesThatCouldNotBeSynced) {
  results_[IORING_OP_FSYNC] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_FUA), -EIO);
}

// The kernel tells of lost data once, to whoever syncs first.
TEST_F(FileHandlerRing, FailsEveryFlushAfterDataWereLost) {
  results_[IORING_OP_FSYNC] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
  EXPECT_TRUE(seen_.empty());
  ASSERT_EQ(disk_.log.size(), 1u);
  EXPECT_NE(disk_.log[0].find("could not be made durable"), std::string::npos);
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096) << "other requests go on";
}

TEST_F(FileHandlerRing, FailsEveryFlushAfterADurableWriteFailed) {
  results_[IORING_OP_WRITE] = {-ENOSPC};
  EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), -ENOSPC);
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), 0) << "no space is that write's own error";
  results_[IORING_OP_WRITE] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), -EIO);
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
}

TEST_F(FileHandlerRing, FailsAFlushThatWasOnItsWayWhenAnotherFailed) {
  results_[IORING_OP_FSYNC] = {-EIO, 0};
  disk_.queue().start(0, UBLK_OP_FLUSH, 0, 0);
  disk_.queue().start(1, UBLK_OP_FLUSH, 0, 0);
  EXPECT_EQ(disk_.queue().finish(0), -EIO);
  EXPECT_EQ(disk_.queue().finish(1), -EIO);
}

}  // namespace
