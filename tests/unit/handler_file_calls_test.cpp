// SPDX-License-Identifier: MIT
//
// What the file handler asks of the kernel for each request, and what it makes of the answers: the
// same on the ring and on workers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <latch>
#include <map>
#include <string>
#include <vector>

#include "eventually.h"
#include "file_calls.h"
#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Bytes;
using test::Device;
using test::FileCall;
using test::pattern;
using test::TempDir;
using test::zeroes;

constexpr size_t kMiB = 1 << 20;

class FileHandlerCalls : public testing::TestWithParam<const char*> {
 protected:
  FileHandlerCalls() { watch(disk_); }

  // Has each of its SQEs answered as a system call is, but for those that only wait.
  void watch(Device& disk) {
    disk.on_sqe = [this](const io_uring_sqe& sqe) -> std::optional<int> {
      if (sqe.opcode == IORING_OP_TIMEOUT) return std::nullopt;
      return look_(test::file_call(sqe));
    };
  }

  int run(ublk_op op, size_t length = 4096, uint32_t flags = 0) {
    seen_.clear();
    return disk_.queue().run(op, 0, static_cast<uint32_t>(length), flags);
  }
  std::vector<unsigned> opcodes() const {
    std::vector<unsigned> opcodes;
    for (const FileCall& seen : seen_) opcodes.push_back(seen.opcode);
    return opcodes;
  }

  TempDir dir_{"/var/tmp"};
  const std::string path_ = dir_.make_file("disk.img", 4 * kMiB);
  Device disk_{"file", {{"path", path_}, {"io", GetParam()}}};
  std::vector<FileCall> seen_;
  std::map<unsigned, std::vector<int>> results_;  // by opcode, to be given in turn

  test::FileCallHook::Look look_ = [this](const FileCall& call) -> std::optional<int> {
    seen_.push_back(call);
    auto& results = results_[call.opcode];
    if (results.empty()) return std::nullopt;
    const int result = results.front();
    results.erase(results.begin());
    return result;
  };
  std::atomic<bool> data_lost_ = false;  // what the kernel says when it is asked
  const test::FileCallHook hook_{[this](const FileCall& call) -> std::optional<int> {
    if (call.opcode != IORING_OP_SYNC_FILE_RANGE) return look_(call);
    return data_lost_ ? std::optional(-EIO) : std::nullopt;
  }};
};

INSTANTIATE_TEST_SUITE_P(Io, FileHandlerCalls, testing::Values("ring", "workers"),
                         [](const auto& io) { return std::string(io.param); });

using Opcodes = std::vector<unsigned>;

TEST_P(FileHandlerCalls, SyncsDataOnFlush) {
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), 0);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_FSYNC});
  EXPECT_EQ(seen_[0].flags, IORING_FSYNC_DATASYNC);
}

TEST_P(FileHandlerCalls, FlushesAReadOnlyDevice) {
  const std::string path = dir_.make_file("other.img", kMiB);
  Device disk("file", {{"path", path}, {"io", GetParam()}}, UBLK_OPEN_READ_ONLY);
  EXPECT_EQ(disk.queue().run(UBLK_OP_FLUSH, 0, 0), 0);
  EXPECT_TRUE(disk.log.empty());
}

// Who is just writing the file makes it longer meanwhile, by 2 GiB at most.
TEST_P(FileHandlerCalls, LooksWhetherItCanPunchHolesWhereNobodyWrites) {
  const std::string path = dir_.make_file("other.img", kMiB);
  seen_.clear();
  const Device disk("file", {{"path", path}, {"io", GetParam()}});
  ASSERT_FALSE(seen_.empty());
  EXPECT_EQ(seen_[0].opcode, static_cast<unsigned>(IORING_OP_FALLOCATE));
  EXPECT_GT(seen_[0].offset, kMiB + (uint64_t{2} << 30));
  EXPECT_EQ(seen_[0].flags, unsigned{FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
}

TEST_P(FileHandlerCalls, WritesDurablyOnlyWithFua) {
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_WRITE});
  EXPECT_EQ(seen_[0].flags, 0u);
  EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), 4096);
  ASSERT_EQ(opcodes(), Opcodes{IORING_OP_WRITE});
  EXPECT_EQ(seen_[0].flags, static_cast<unsigned>(RWF_DSYNC));
}

TEST_P(FileHandlerCalls, SyncsZeroesOnlyWithFua) {
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES), 0);
  EXPECT_EQ(opcodes(), Opcodes{IORING_OP_FALLOCATE});
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_FUA), 0);
  EXPECT_EQ(opcodes(), (Opcodes{IORING_OP_FALLOCATE, IORING_OP_FSYNC}));
}

TEST_P(FileHandlerCalls, FreesSpaceOnlyWhereItMay) {
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_NO_UNMAP), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE});
  EXPECT_EQ(run(UBLK_OP_DISCARD), 0);
  EXPECT_EQ(seen_.at(0).flags, unsigned{FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE});
}

TEST_P(FileHandlerCalls, PassesErrorsOn) {
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

TEST_P(FileHandlerCalls, TriesAgainWhatWasInterrupted) {
  results_[IORING_OP_WRITE] = {-EINTR, -EAGAIN, -EINTR};
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096);
  EXPECT_EQ(seen_.size(), 4u);
  results_[IORING_OP_FALLOCATE] = {-EINTR};
  EXPECT_EQ(run(UBLK_OP_DISCARD), 0);
  EXPECT_EQ(seen_.size(), 2u);
}

TEST_P(FileHandlerCalls, GivesUpAfterASecond) {
  results_[IORING_OP_READ] = std::vector<int>(100, -EAGAIN);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(run(UBLK_OP_READ), -EIO);
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GT(took, std::chrono::milliseconds(500)) << "busy";
  EXPECT_EQ(seen_.size(), 11u);
}

TEST_P(FileHandlerCalls, ReturnsAShortResultAsItIs) {
  results_[IORING_OP_READ] = {1024};
  EXPECT_EQ(run(UBLK_OP_READ), 1024);
  results_[IORING_OP_WRITE] = {1000};
  EXPECT_EQ(run(UBLK_OP_WRITE), 1000);
}

// So that the rest is aligned.
TEST_P(FileHandlerCalls, CutsAShortResultToWholeBlocksWhenDirect) {
  const std::string path = dir_.make_file("direct.img", kMiB);
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECT);
  if (fd < 0) GTEST_SKIP() << "no O_DIRECT in " << dir_.path();
  close(fd);
  Device disk("file", {{"path", path}, {"direct", "true"}, {"io", GetParam()}});
  watch(disk);
  const int block = static_cast<int>(disk.geometry().logical_block_size);
  int result = 2 * block + 100;
  look_ = [&](const FileCall&) { return result; };
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 65536), 2 * block);
  result = 100;
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 65536), -EIO);
}

TEST_P(FileHandlerCalls, FallsBackToWhatTheFileSystemHas) {
  disk_.write(0, pattern(kMiB));
  results_[IORING_OP_FALLOCATE] = {-EOPNOTSUPP, -EOPNOTSUPP};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB), 0);
  EXPECT_EQ(opcodes(), (Opcodes{IORING_OP_FALLOCATE, IORING_OP_FALLOCATE, IORING_OP_WRITE,
                                IORING_OP_WRITE, IORING_OP_WRITE, IORING_OP_WRITE}));
  EXPECT_EQ(disk_.read(0, kMiB), zeroes(kMiB));
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096), 0);
  EXPECT_EQ(opcodes(), Opcodes{IORING_OP_WRITE}) << "what it has not is asked for once";
}

TEST_P(FileHandlerCalls, DoesNotCallZeroedWhatIsZeroedInPart) {
  results_[IORING_OP_FALLOCATE] = {-EOPNOTSUPP, -EOPNOTSUPP};
  results_[IORING_OP_WRITE] = {256 << 10, -ENOSPC};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB, UBLK_REQUEST_FUA), -ENOSPC);
  results_[IORING_OP_WRITE] = {256 << 10, 0};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, kMiB), -EIO);
}

TEST_P(FileHandlerCalls, WritesTheRestOfZeroesAfterAShortResult) {
  disk_.write(0, pattern(kMiB));
  bool first = true;
  look_ = [&](const FileCall& call) -> std::optional<int> {
    seen_.push_back(call);
    if (call.opcode == IORING_OP_FALLOCATE) return -EOPNOTSUPP;
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

TEST_P(FileHandlerCalls, FailsZeroesThatCouldNotBeSynced) {
  results_[IORING_OP_FSYNC] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_WRITE_ZEROES, 4096, UBLK_REQUEST_FUA), -EIO);
}

// The kernel tells of lost data once, to whoever syncs first.
TEST_P(FileHandlerCalls, FailsEveryFlushAfterDataWereLost) {
  results_[IORING_OP_FSYNC] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
  EXPECT_TRUE(seen_.empty());
  ASSERT_EQ(disk_.log.size(), 1u);
  EXPECT_NE(disk_.log[0].find("could not be made durable"), std::string::npos);
  EXPECT_EQ(run(UBLK_OP_WRITE), 4096) << "other requests go on";
}

TEST_P(FileHandlerCalls, FailsEveryFlushAfterADurableWriteFailed) {
  for (const int own : {-ENOSPC, -ENOMEM}) {
    results_[IORING_OP_WRITE] = {own};
    EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), own);
    EXPECT_EQ(run(UBLK_OP_FLUSH, 0), 0) << "that is the write's own error";
  }
  results_[IORING_OP_WRITE] = {-EIO};
  EXPECT_EQ(run(UBLK_OP_WRITE, 4096, UBLK_REQUEST_FUA), -EIO);
  EXPECT_EQ(run(UBLK_OP_FLUSH, 0), -EIO);
}

// Another one got the error and has not told of it yet.
TEST_P(FileHandlerCalls, FailsASuccessfulSyncAfterDataWereLost) {
  for (const auto& [op, flags] : {std::pair{UBLK_OP_FLUSH, 0u},
                                  {UBLK_OP_WRITE, UBLK_REQUEST_FUA},
                                  {UBLK_OP_WRITE_ZEROES, UBLK_REQUEST_FUA}}) {
    Device disk("file", {{"path", dir_.make_file("lost.img", kMiB)}, {"io", GetParam()}});
    const uint32_t length = op == UBLK_OP_FLUSH ? 0 : 4096;
    EXPECT_GE(disk.queue().run(op, 0, length, flags), 0) << op;
    data_lost_ = true;
    EXPECT_EQ(disk.queue().run(op, 0, length, flags), -EIO) << op;
    data_lost_ = false;
    EXPECT_EQ(disk.queue().run(UBLK_OP_FLUSH, 0, 0), -EIO) << "once told";
  }
}

TEST_P(FileHandlerCalls, FailsAFlushThatWasOnItsWayWhenAnotherFailed) {
  test::Queue& queue = disk_.queue();
  const bool can_wait = disk_.on_workers();
  std::atomic<int> calls = 0;
  std::latch second_called(1);
  std::latch first_failed(1);
  look_ = [&](const FileCall&) {
    if (++calls == 1) {
      if (can_wait) second_called.wait();
      return -EIO;
    }
    second_called.count_down();
    if (can_wait) first_failed.wait();
    return 0;
  };
  queue.start(0, UBLK_OP_FLUSH, 0, 0);
  ASSERT_TRUE(test::eventually([&] { return !can_wait || calls != 0; }));
  queue.start(1, UBLK_OP_FLUSH, 0, 0);
  EXPECT_EQ(queue.finish(0), -EIO);
  first_failed.count_down();
  EXPECT_EQ(queue.finish(1), -EIO);
  EXPECT_EQ(calls, 2);
}

}  // namespace
