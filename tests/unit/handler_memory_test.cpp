// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "handler_host.h"
#include "test_data.h"

namespace {

using test::Bytes;
using test::Device;
using test::HandlerError;
using test::Options;
using test::pattern;
using test::zeroes;

constexpr size_t kMiB = 1 << 20;

constexpr size_t kLarge = size_t{99} << 30;

// Bytes of memory that a disk of kLarge bytes has: those of the mapping that is a little longer.
size_t resident() {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    size_t kilobytes = 0;
    if (std::sscanf(line.c_str(), "Size: %zu kB", &kilobytes) == 1)
      inside = kilobytes * 1024 >= kLarge && kilobytes * 1024 < kLarge + (kLarge >> 10);
    else if (inside && std::sscanf(line.c_str(), "Rss: %zu kB", &kilobytes) == 1)
      return kilobytes * 1024;
  }
  ADD_FAILURE() << "the disk's mapping is not found";
  return 0;
}

TEST(MemoryHandler, IsVolatileAndNeedsNoFlush) {
  const Device disk("memory", {{"size", "1M"}});
  EXPECT_EQ(disk.geometry().size, kMiB);
  EXPECT_EQ(disk.geometry().flags,
            UBLK_GEOMETRY_VOLATILE | UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES);
}

// A segment of its own, which goes with the test.
class PersistentMemoryHandler : public testing::Test {
 protected:
  void TearDown() override { unlink(path_.c_str()); }
  static Options options(const char* size = "1M") { return {{"size", size}, {"persist", "true"}}; }

  const std::string path_ = "/dev/shm/ublk-memory-" + test::device_name();
};

TEST_F(PersistentMemoryHandler, KeepsItsDataWhenItIsClosed) {
  const Bytes data = pattern(8192);
  {
    Device disk("memory", options());
    EXPECT_EQ(disk.geometry().flags & UBLK_GEOMETRY_VOLATILE, 0u);
    EXPECT_EQ(disk.write(4096, data), 8192);
    EXPECT_EQ(disk.write(65536, data), 8192);
    disk.discard(65536, 4096);
  }
  Device disk("memory", options());
  EXPECT_EQ(disk.read(4096, 8192), data);
  EXPECT_EQ(disk.read(65536, 4096), zeroes(4096));
  EXPECT_EQ(disk.read(0, 4096), zeroes(4096));
}

// As after a kill between two steps: data in pages that do not count.
TEST_F(PersistentMemoryHandler, WhatDoesNotCountDoesNotComeBack) {
  { const Device disk("memory", options()); }
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096 + 8192);
  file << std::string(4096, 'x');
  file.close();
  Device disk("memory", options());
  EXPECT_EQ(disk.write(8192, pattern(512)), 512);
  EXPECT_EQ(disk.read(8192 + 512, 3584), zeroes(3584));
}

// Among pages that count, and up to the last one.
TEST_F(PersistentMemoryHandler, WhatDoesNotCountIsDroppedWhereverItLies) {
  const Bytes data = pattern(4096);
  {
    Device disk("memory", options());
    for (const uint64_t page : {0, 3, 4, 200})
      EXPECT_EQ(disk.write(page * 4096, data), 4096) << "page " << page;
  }
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  for (const int page : {1, 5, 255}) {
    file.seekp(4096 + page * 4096);
    file << std::string(4096, 'x');
  }
  file.close();
  Device disk("memory", options());
  struct stat status {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_blocks * 512, (1 + 4) * 4096) << "the bitmap and what counts";
  for (const uint64_t page : {0, 3, 4, 200})
    EXPECT_EQ(disk.read(page * 4096, 4096), data) << "page " << page;
  for (const uint64_t page : {1, 5, 255}) {
    EXPECT_EQ(disk.write(page * 4096, pattern(512)), 512);
    EXPECT_EQ(disk.read(page * 4096 + 512, 3584), zeroes(3584)) << "page " << page;
  }
}

// As the runner's is.
TEST_F(PersistentMemoryHandler, FreesWhatIsDiscardedWhenItsMemoryIsLocked) {
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) GTEST_SKIP() << "may lock no memory";
  {
    Device disk("memory", options("64M"));
    disk.write(kMiB, pattern(kMiB));
    disk.write(5 * kMiB, pattern(4096));
    disk.discard(0, 64 * kMiB);
    struct stat status {};
    EXPECT_EQ(stat(path_.c_str(), &status), 0);
    EXPECT_LE(status.st_blocks * 512, 8192) << "the bitmap takes that";
    for (const uint64_t at : {1, 5}) EXPECT_EQ(disk.read(at * kMiB, kMiB), zeroes(kMiB));
    EXPECT_EQ(disk.write(kMiB, pattern(512)), 512);
    EXPECT_EQ(disk.read(kMiB + 512, 3584), zeroes(3584));
  }
  munlockall();
}

TEST_F(PersistentMemoryHandler, IsOneProcessesAndOfOneSize) {
  {
    const Device disk("memory", options());
    try {
      const Device second("memory", options());
      FAIL() << "opened twice";
    } catch (const HandlerError& e) {
      EXPECT_EQ(e.error, EBUSY);
    }
  }
  try {
    const Device disk("memory", options("2M"));
    FAIL() << "opened with another size";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, EINVAL);
  }
}

TEST(MemoryHandler, RefusesASizeOfBrokenBlocks) {
  try {
    const Device disk("memory", {{"size", "1000000"}});
    FAIL() << "opened";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, EINVAL);
    EXPECT_STREQ(e.what(), "size is 1000000 bytes, expected a multiple of 512");
  }
}

TEST(MemoryHandler, RefusesASizeThatNoAddressSpaceHas) {
  try {
    const Device disk("memory", {{"size", "1000P"}});
    FAIL() << "opened";
  } catch (const HandlerError& e) {
    EXPECT_EQ(e.error, ENOMEM);
    EXPECT_NE(std::string(e.what()).find("cannot reserve"), std::string::npos) << e.what();
  }
}

TEST(MemoryHandler, GivesBackWhatWasWrittenAtAnyOffsetAndLength) {
  Device disk("memory", {{"size", "4M"}});
  Bytes expected = zeroes(4 * kMiB);
  uint32_t seed = 1;
  for (const size_t offset :
       std::initializer_list<size_t>{0, 512, 3584, 4096, 65536 + 1024, kMiB - 512, 3 * kMiB}) {
    for (const size_t length :
         std::initializer_list<size_t>{512, 1024, 4096, 4608, 130048, kMiB - 512}) {
      const Bytes data = pattern(length, seed++);
      EXPECT_EQ(disk.write(offset, data), static_cast<int>(length));
      std::ranges::copy(data, expected.begin() + offset);
    }
  }
  for (size_t at = 0; at < 4 * kMiB; at += kMiB)
    EXPECT_TRUE(std::ranges::equal(disk.read(at, kMiB), std::span(expected).subspan(at, kMiB)))
        << at;
}

TEST(MemoryHandler, ServesItsLastBlockWhenThatEndsInsideAPage) {
  const size_t size = kMiB + 512;
  Device disk("memory", {{"size", std::to_string(size)}});
  const Bytes data = pattern(1024);
  disk.write(size - 1024, data);
  EXPECT_EQ(disk.read(size - 1024, 1024), data);
  disk.discard(size - 512, 512);
  Bytes expected = zeroes(1024);
  std::copy_n(data.begin(), 512, expected.begin());
  EXPECT_EQ(disk.read(size - 1024, 1024), expected);
  disk.discard(0, size);
  EXPECT_EQ(disk.read(size - 1024, 1024), zeroes(1024));
}

// Zeroes [from, to) of a written megabyte by `how` and compares all of it.
template <class How>
void expect_zeroed(How how) {
  for (const auto& [from, to] :
       std::vector<std::pair<size_t, size_t>>{{0, 512},
                                              {512, 1024},
                                              {4096, 8192},
                                              {3584, 8704},
                                              {512, 262144 + 512},  // over a word of the bitmap
                                              {3584, 4608},
                                              {kMiB - 512, kMiB},
                                              {0, kMiB}}) {
    Device disk("memory", {{"size", "1M"}});
    Bytes expected = pattern(kMiB);
    disk.write(0, expected);
    how(disk, from, to - from);
    std::fill(expected.begin() + from, expected.begin() + to, std::byte{0});
    EXPECT_EQ(disk.read(0, kMiB), expected) << from << ".." << to;
    // No old data comes back with a write beside it.
    disk.write(from, pattern(512, 2));
    std::ranges::copy(pattern(512, 2), expected.begin() + from);
    EXPECT_EQ(disk.read(0, kMiB), expected) << from << ".." << to;
  }
}

TEST(MemoryHandler, ReadsZeroesWhereItDiscarded) {
  expect_zeroed([](Device& disk, size_t at, size_t n) { disk.discard(at, n); });
}

TEST(MemoryHandler, ReadsZeroesWhereZeroesWereWritten) {
  expect_zeroed([](Device& disk, size_t at, size_t n) { disk.write_zeroes(at, n); });
  expect_zeroed(
      [](Device& disk, size_t at, size_t n) { disk.write_zeroes(at, n, UBLK_REQUEST_NO_UNMAP); });
}

TEST(MemoryHandler, TakesMemoryForWrittenPagesAndFreesDiscardedOnes) {
  constexpr size_t kPart = 64 * kMiB;
  constexpr size_t kSlack = kMiB;  // for the bitmap beside the disk
  Device disk("memory", {{"size", std::to_string(kLarge)}});
  const Bytes data = pattern(kMiB);
  for (size_t at = 0; at < kPart; at += kMiB) disk.read(at, kMiB);
  EXPECT_LT(resident(), kSlack) << "reading takes memory";
  for (size_t at = 0; at < kPart; at += kMiB) disk.write(at, data);
  EXPECT_GE(resident(), kPart);
  disk.write_zeroes(0, kPart / 2, UBLK_REQUEST_NO_UNMAP);
  EXPECT_GE(resident(), kPart) << "what must stay allocated was freed";
  disk.write_zeroes(0, kPart / 2);
  EXPECT_LT(resident(), kPart / 2 + kSlack);
  EXPECT_GE(resident(), kPart / 2);
  disk.discard(0, kPart);
  EXPECT_LT(resident(), kSlack);
}

TEST(MemoryHandler, FailsAWriteWithNoSpaceBeforeMemoryRunsOut) {
  Device disk("memory", {{"size", "1M"}, {"keep_free", "1P"}});
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 4096), -ENOSPC);
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE_ZEROES, 0, 4096, UBLK_REQUEST_NO_UNMAP), -ENOSPC);
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE_ZEROES, 0, 4096), 0) << "needs no memory";
  EXPECT_EQ(disk.read(0, 4096), zeroes(4096));
}

// Each queue has every fourth block, so that all of them work in the same pages.
TEST(MemoryHandler, ServesQueuesAtOnceInTheSamePages) {
  constexpr uint32_t kQueues = 4;
  constexpr uint32_t kBlocks = 2048;
  Device disk("memory", {{"size", "1M"}}, 0, kQueues);
  auto work = [&](uint32_t index) {
    test::Queue& queue = disk.queue(index);
    for (uint32_t round = 1; round <= 20; ++round) {
      const Bytes data = pattern(512, index * 100 + round);
      for (uint64_t block = index; block < kBlocks; block += kQueues) {
        std::ranges::copy(data, queue.buffer(0).begin());
        ASSERT_EQ(queue.run(UBLK_OP_WRITE, block * 512, 512), 512);
        ASSERT_EQ(queue.run(UBLK_OP_READ, block * 512, 512, 0, 1), 512);
        ASSERT_TRUE(std::ranges::equal(queue.buffer(1).first(512), data));
        if (block % 3 != 0) continue;
        ASSERT_EQ(queue.run(UBLK_OP_DISCARD, block * 512, 512), 0);
        ASSERT_EQ(queue.run(UBLK_OP_READ, block * 512, 512, 0, 1), 512);
        ASSERT_TRUE(std::ranges::equal(queue.buffer(1).first(512), zeroes(512)));
      }
    }
  };
  std::vector<std::jthread> threads;
  for (uint32_t index = 0; index < kQueues; ++index) threads.emplace_back(work, index);
}

// Writes and discards of one page that meet may be done in either order, but a page that is
// discarded once all is quiet is zero, and stays so when a part of it is written.
TEST(MemoryHandler, LosesNoPageWhereWritesAndDiscardsMeet) {
  Device disk("memory", {{"size", "1M"}}, 0, 2);
  auto work = [&](uint32_t index) {
    test::Queue& queue = disk.queue(index);
    std::ranges::copy(pattern(4096), queue.buffer(0).begin());
    for (unsigned i = 0; i < 20000; ++i)
      ASSERT_GE(queue.run(index == 0 ? UBLK_OP_WRITE : UBLK_OP_DISCARD, 8192, 4096), 0);
  };
  {
    std::jthread writer(work, 0);
    std::jthread discarder(work, 1);
  }
  disk.discard(8192, 4096);
  disk.write(8192, pattern(512));
  Bytes expected = zeroes(4096);
  std::ranges::copy(pattern(512), expected.begin());
  EXPECT_EQ(disk.read(8192, 4096), expected);
}

}  // namespace
