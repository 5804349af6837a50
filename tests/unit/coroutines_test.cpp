// SPDX-License-Identifier: MIT
//
// Handlers of coroutines: each thing that they can await, on the ring and on workers, and that an
// I/O allocates nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "allocations.h"
#include "handler_host.h"
#include "test_data.h"

namespace {

using test::allocations;
using test::Bytes;
using test::Device;
using test::Options;
using test::pattern;
using test::TempDir;
using test::zeroes;

constexpr size_t kBlock = 4096;

// Here is also the file handler, by a link.
[[maybe_unused]] const int handlers_are_here =
    setenv("UBLK_TEST_HANDLER_DIR", UBLK_TEST_COROUTINES_DIR, 1);

class Coroutines : public testing::TestWithParam<const char*> {
 protected:
  bool on_ring() const { return std::string(GetParam()) == "ring"; }

  Options options(const std::string& scene) const {
    return {{"io", GetParam()}, {"scene", scene}, {"fifo", fifo_}};
  }
  // The result of a read in a scene.
  int read(const std::string& scene) {
    Device disk("coroutines", options(scene));
    return disk.queue().run(UBLK_OP_READ, 0, kBlock);
  }
  std::string make_fifo() const {
    std::string path = dir_ / "fifo";
    EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
    return path;
  }

  TempDir dir_;
  const std::string fifo_ = make_fifo();
};

INSTANTIATE_TEST_SUITE_P(Io, Coroutines, testing::Values("ring", "workers"),
                         [](const auto& io) { return std::string(io.param); });

TEST_P(Coroutines, ServeADisk) {
  Device disk("coroutines", options("disk"));
  EXPECT_EQ(disk.geometry().flags,
            UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES);
  const Bytes data = pattern(64 * kBlock);
  disk.write(kBlock, data);
  disk.flush();
  EXPECT_EQ(disk.read(kBlock, 64 * kBlock), data);
  disk.discard(kBlock, kBlock);
  disk.write_zeroes(3 * kBlock, kBlock);
  EXPECT_EQ(disk.read(0, 2 * kBlock), zeroes(2 * kBlock));
  EXPECT_EQ(disk.read(3 * kBlock, kBlock), zeroes(kBlock));
  EXPECT_EQ(disk.read(2 * kBlock, 512), Bytes(data.begin() + kBlock, data.begin() + kBlock + 512));
  EXPECT_TRUE(disk.log.empty()) << disk.log.front();
  EXPECT_EQ(disk.wrong_completions, 0u);
}

TEST_P(Coroutines, MoveData) {
  Device disk("coroutines_moving", options("disk"));
  disk.write(kBlock, pattern(16 * kBlock));
  EXPECT_EQ(disk.read(kBlock, 16 * kBlock), pattern(16 * kBlock));
}

TEST_P(Coroutines, ServeManyRequestsAtOnce) {
  Device disk("coroutines", options("disk"));
  test::Queue& queue = disk.queue();
  for (int round = 0; round < 20; ++round) {
    for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag) {
      std::ranges::copy(pattern(kBlock, tag + 1u), queue.buffer(tag).begin());
      queue.start(tag, UBLK_OP_WRITE, uint64_t{tag} * kBlock, kBlock);
    }
    for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag)
      EXPECT_EQ(queue.finish(tag), int{kBlock});
    for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag)
      queue.start(tag, UBLK_OP_READ, uint64_t{7u - tag} * kBlock, kBlock);
    for (uint16_t tag = 0; tag < test::Queue::kDepth; ++tag) {
      EXPECT_EQ(queue.finish(tag), int{kBlock});
      const auto data = queue.buffer(tag).first(kBlock);
      EXPECT_EQ(Bytes(data.begin(), data.end()), pattern(kBlock, 8u - tag));
    }
  }
  EXPECT_EQ(disk.wrong_completions, 0u);
}

TEST_P(Coroutines, AwaitEachKind) {
  for (const char* scene : {"at_once", "nop", "sleep", "errors"}) {
    EXPECT_EQ(read(scene), int{kBlock}) << scene;
  }
}

TEST_P(Coroutines, AwaitAPoll) {
  Device disk("coroutines", options("poll"));
  disk.queue().start(0, UBLK_OP_READ, 0, kBlock);
  disk.queue().start(1, UBLK_OP_READ, 0, kBlock);
  const int fd = open(fifo_.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::write(fd, "x", 1), 1);
  EXPECT_EQ(disk.queue().finish(0), int{kBlock});
  EXPECT_EQ(disk.queue().finish(1), int{kBlock});
  close(fd);
}

TEST_P(Coroutines, AwaitAnSqeOfTheirOwn) {
  Device disk("coroutines", options("own_sqe"));
  disk.write(kBlock, pattern(kBlock));
  if (on_ring())
    EXPECT_EQ(disk.read(kBlock, kBlock), pattern(kBlock));
  else
    EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, kBlock), -EOPNOTSUPP);
}

TEST_P(Coroutines, AwaitAsManyTasksAsThereAre) {
  Device disk("coroutines", options("tasks"));
  disk.write(kBlock, pattern(kBlock));
  EXPECT_EQ(disk.read(kBlock, kBlock), pattern(kBlock));
}

TEST_P(Coroutines, FailTheRequestWithWhatTheyThrow) {
  EXPECT_EQ(read("throws"), -EIO);
  EXPECT_EQ(read("throws_at_once"), -EIO);
  EXPECT_EQ(read("catches"), int{kBlock});
}

TEST_P(Coroutines, HaveTheTagsScratch) {
  Device disk("coroutines", options("count"));
  for (const int i : {1, 2, 3}) EXPECT_EQ(disk.read(0, kBlock)[0], static_cast<std::byte>(i));
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, kBlock, 0, 1), int{kBlock});
  EXPECT_EQ(disk.queue().buffer(1)[0], std::byte{1});
}

// --------------------------------------------------------------- cancellation --

TEST_P(Coroutines, AreCancelled) {
  for (const char* scene : {"poll", "forever", "sleeps_forever", "stubborn"}) {
    Device disk("coroutines", options(scene));
    disk.queue().start(0, UBLK_OP_READ, 0, kBlock);
    disk.queue().start(5, UBLK_OP_READ, 0, kBlock);
    disk.queue().cancel(0);
    disk.queue().cancel(5);
    disk.queue().cancel(5);
    EXPECT_EQ(disk.queue().finish(0), -ECANCELED) << scene;
    EXPECT_EQ(disk.queue().finish(5), -ECANCELED) << scene;
    EXPECT_EQ(disk.wrong_completions, 0u);
  }
}

TEST_P(Coroutines, AreCancelledWhileTheyWait) {
  Device disk("coroutines", options("forever"));
  disk.queue().start(0, UBLK_OP_READ, 0, kBlock);
  disk.queue().run(UBLK_OP_FLUSH, 0, 0, 0, 1);  // what has been started is on its way
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  disk.queue().cancel(0);
  EXPECT_EQ(disk.queue().finish(0), -ECANCELED);
}

// The request alone: on workers there is no more to be told apart.
TEST(CoroutinesOnTheRing, AreCancelledOneByOne) {
  const TempDir dir;
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  Device disk("coroutines", {{"scene", "poll"}, {"fifo", fifo}});
  for (const uint16_t tag : {0, 1, 2}) disk.queue().start(tag, UBLK_OP_READ, 0, kBlock);
  disk.queue().cancel(1);
  EXPECT_EQ(disk.queue().finish(1), -ECANCELED);
  const int fd = open(fifo.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::write(fd, "x", 1), 1);
  EXPECT_EQ(disk.queue().finish(0), int{kBlock});
  EXPECT_EQ(disk.queue().finish(2), int{kBlock});
  disk.queue().start(1, UBLK_OP_READ, 0, kBlock);
  EXPECT_EQ(disk.queue().finish(1), int{kBlock}) << "the tag's next request is another";
  close(fd);
}

// --------------------------------------------------------------------- memory --

// How many allocations a request costs, once all there is to be made has been made.
uint64_t allocations_of(Device& disk, ublk_op op, uint32_t length, uint32_t flags = 0) {
  disk.queue().run(op, 0, length, flags);
  constexpr int kRequests = 100;
  const uint64_t before = allocations;
  for (int i = 0; i < kRequests; ++i) disk.queue().run(op, 0, length, flags);
  return (allocations - before + kRequests - 1) / kRequests;
}

TEST(CoroutineFrames, AreNotAllocated) {
  for (const char* scene : {"disk", "nop", "tasks", "nests", "frames", "sleep"}) {
    Device disk("coroutines", {{"scene", scene}});
    EXPECT_EQ(allocations_of(disk, UBLK_OP_READ, kBlock), 0u) << scene;
    EXPECT_EQ(allocations_of(disk, UBLK_OP_WRITE, kBlock), 0u);
    EXPECT_EQ(allocations_of(disk, UBLK_OP_FLUSH, 0), 0u);
    EXPECT_EQ(allocations_of(disk, UBLK_OP_DISCARD, kBlock), 0u);
    EXPECT_TRUE(disk.log.empty()) << disk.log.front();
  }
}

TEST(CoroutineFrames, OfTheFileHandlerAreNotAllocated) {
  const TempDir dir;
  Device disk("file", {{"path", dir.make_file("disk", 1 << 20)}});
  for (const uint32_t flags : {0u, uint32_t{UBLK_REQUEST_FUA}}) {
    EXPECT_EQ(allocations_of(disk, UBLK_OP_READ, kBlock), 0u);
    EXPECT_EQ(allocations_of(disk, UBLK_OP_WRITE, kBlock, flags), 0u);
    EXPECT_EQ(allocations_of(disk, UBLK_OP_WRITE_ZEROES, kBlock, flags), 0u);
    EXPECT_EQ(allocations_of(disk, UBLK_OP_WRITE_ZEROES, kBlock, flags | UBLK_REQUEST_NO_UNMAP),
              0u);
  }
  EXPECT_EQ(allocations_of(disk, UBLK_OP_FLUSH, 0), 0u);
  EXPECT_EQ(allocations_of(disk, UBLK_OP_DISCARD, kBlock), 0u);
  EXPECT_TRUE(disk.log.empty()) << disk.log.front();
}

TEST(CoroutineFrames, ComeFromTheHeapWhereTheyMustAndThatIsTold) {
  Device disk("coroutines", {{"scene", "nests"}, {"depth", "40"}});
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, kBlock), int{kBlock});
  ASSERT_EQ(disk.log.size(), 1u);
  size_t taken = 0;
  size_t there = 0;
  ASSERT_EQ(std::sscanf(disk.log[0].c_str(),
                        "1 coroutine frames are allocated: they take %zu bytes, kFrameSize is %zu",
                        &taken, &there),
            2)
      << disk.log[0];
  EXPECT_EQ(there, 2048u);
  EXPECT_GT(taken, 40 * 64u);
  EXPECT_GT(allocations_of(disk, UBLK_OP_READ, kBlock), 10u);
  EXPECT_EQ(disk.log.size(), 1u) << disk.log[1];
}

}  // namespace
