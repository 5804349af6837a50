// SPDX-License-Identifier: MIT
// Requests completed by other threads, in numbers. A lost wake-up hangs one for good: the tests
// notice, say so, and wake the ring to end properly.
#include <atomic>
#include <iostream>
#include <memory>
#include <ostream>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"

namespace fake {
namespace {

struct Load {
  const char* name;
  unsigned devices = 1;
  uint16_t queues = 1;
  unsigned io_depth = 1;
  unsigned workers = 1;
  unsigned rings = 1;
  uint64_t requests = 0;
  uint64_t flags = 0;
};
std::ostream& operator<<(std::ostream& out, const Load& load) { return out << load.name; }

constexpr size_t kBytes = 1 << 20;

// Waits for the I/O; a hang is a failure, and is ended by waking the rings.
void expect_end(RandomIo& io, const std::vector<RingThread*>& threads) {
  if (!io.wait(kHung)) {
    ADD_FAILURE() << "lost wake-up? " << io.completed() << " requests have ended";
    for (RingThread* thread : threads) thread->wake();
    if (io.wait(kHung)) std::cout << "A wake-up of the ring ended the hang.\n";
  }
  EXPECT_EQ(io.error(), "");
}

class CompletionStressTest : public FakeTest, public ::testing::WithParamInterface<Load> {};

TEST_P(CompletionStressTest, EndsAllRequests) {
  const Load& load = GetParam();
  struct Disk {
    MemoryBackend memory{kBytes};
    std::unique_ptr<WorkersBackend> workers;
    std::unique_ptr<ServedDevice> device;
    std::unique_ptr<RandomIo> io;
  };
  ublk::Control control(driver());
  std::vector<std::unique_ptr<RingThread>> threads;
  std::vector<RingThread*> serving;
  for (unsigned i = 0; i < load.rings; ++i)
    serving.push_back(threads.emplace_back(std::make_unique<RingThread>()).get());
  std::vector<Disk> disks(load.devices);
  for (Disk& disk : disks) {
    disk.workers = std::make_unique<WorkersBackend>(disk.memory, load.workers);
    disk.device = std::make_unique<ServedDevice>(
        control, device_spec(kBytes, load.queues, 64, 0, load.flags), *disk.workers, serving);
  }
  uint64_t before = 0;
  for (const RingThread* thread : serving) before += thread->wakeups();
  const uint64_t requests = load.requests / (kSanitized ? 10 : 1);
  for (Disk& disk : disks)
    disk.io = std::make_unique<RandomIo>(driver().disk(disk.device->id()),
                                         RandomIo::Options{.depth = load.io_depth,
                                                           .requests = requests / load.devices,
                                                           .max_sectors = 1,
                                                           .zeroing = false,
                                                           .discards = false});
  for (Disk& disk : disks) expect_end(*disk.io, serving);

  // The last ones are counted when their queues end.
  for (Disk& disk : disks) disk.device.reset();
  uint64_t wakeups = 0;
  uint64_t remote = 0;
  for (RingThread* thread : serving) {
    wakeups += thread->wakeups();
    remote += thread->call([](ublk::Ring& ring) { return ring.remote_completions(); });
  }
  wakeups -= before;
  std::cout << requests << " requests, " << wakeups << " writes to the eventfd\n";
  EXPECT_GE(remote, requests);
  EXPECT_LE(wakeups, requests);
}

INSTANTIATE_TEST_SUITE_P(
    , CompletionStressTest,
    ::testing::Values(
        Load{.name = "Depth1", .requests = 50000},
        Load{.name = "Depth64", .io_depth = 64, .workers = 4, .requests = 200000},
        Load{.name = "Depth64OneWorker", .io_depth = 64, .requests = 100000},
        Load{.name = "Depth2", .io_depth = 2, .workers = 2, .requests = 50000},
        Load{.name = "ManyQueuesOnOneRing",
             .devices = 3,
             .queues = 4,
             .io_depth = 16,
             .workers = 2,
             .requests = 150000},
        Load{.name = "TwoRings",
             .devices = 2,
             .queues = 2,
             .io_depth = 16,
             .workers = 2,
             .rings = 2,
             .requests = 150000},
        Load{.name = "BatchDepth1", .requests = 50000, .flags = ublk::abi::kFlagBatchIo},
        Load{.name = "BatchDepth64",
             .io_depth = 64,
             .workers = 4,
             .requests = 200000,
             .flags = ublk::abi::kFlagBatchIo},
        Load{.name = "BatchTwoRings",
             .devices = 2,
             .queues = 2,
             .io_depth = 16,
             .workers = 2,
             .rings = 2,
             .requests = 150000,
             .flags = ublk::abi::kFlagBatchIo}),
    [](const auto& param_info) { return param_info.param.name; });

using StopTest = FakeTest;

// STOP waits for what the workers hold; their completions come while the queue ends.
class StopUnderLoadTest : public StopTest, public ::testing::WithParamInterface<uint64_t> {};

TEST_P(StopUnderLoadTest, CompletionsWhileTheQueueStops) {
  constexpr int kRounds = kSanitized ? 50 : 300;
  ublk::Control control(driver());
  RingThread thread;
  for (int round = 0; round < kRounds; ++round) {
    MemoryBackend memory(kBytes);
    WorkersBackend workers(memory, 3);
    ServedDevice device(control, device_spec(kBytes, 2, 16, 0, GetParam()), workers, {&thread});
    const auto disk = driver().disk(device.id());
    std::atomic<int> ended{0};
    std::vector<std::byte> data(512);
    constexpr int kRequests = 50;
    for (int i = 0; i < kRequests; ++i)
      disk->submit({.sectors = 1, .data = data.data()}, [&](int result) {
        // EIO: it came when the disk was going already.
        EXPECT_TRUE(result == 0 || result == -EIO) << result;
        ++ended;
      });
    device.stop();
    // The disk has gone: whatever is under way has ended before this answer.
    EXPECT_EQ(disk->read(0, 1, data.data()), -EIO);
    ASSERT_EQ(ended, kRequests) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(, StopUnderLoadTest, ::testing::Values(0, ublk::abi::kFlagBatchIo),
                         [](const auto& param_info) {
                           return param_info.param == 0 ? "Each" : "Batch";
                         });

// The ring's thread sleeps without a request in its hands; then requests come that only another
// thread completes, again and again from idle.
TEST_F(StopTest, FromIdleEachTime) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  WorkersBackend workers(memory, 2);
  ServedDevice device(control, device_spec(kBytes, 1, 8), workers, {&thread});
  const auto disk = driver().disk(device.id());
  for (uint64_t burst = 1; burst <= (kSanitized ? 200 : 2000); ++burst) {
    RandomIo io(disk, {.seed = burst,
                       .depth = 4,
                       .requests = 1 + burst % 7,
                       .zeroing = false,
                       .discards = false});
    expect_end(io, {&thread});
    if (HasFailure()) break;
    // The next one starts on a disk that is all zero for the model.
    ASSERT_EQ(disk->write_zeroes(0, kBytes / 512), 0);
  }
}

}  // namespace
}  // namespace fake
