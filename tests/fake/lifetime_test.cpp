// SPDX-License-Identifier: MIT
// Devices and queues that come and go, properly and otherwise, and what they leave behind: nothing.
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"
#include "support/eventually.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using abi::IoOp;

constexpr size_t kBytes = 1 << 20;

struct Resources {
  long fds, maps, threads;

  static Resources now() {
    const auto entries = [](const char* path) {
      return std::distance(std::filesystem::directory_iterator(path), {});
    };
    std::ifstream maps("/proc/self/maps");
    return {entries("/proc/self/fd"), std::count(std::istreambuf_iterator<char>(maps), {}, '\n'),
            entries("/proc/self/task")};
  }
};

void expect_no_more(const Resources& before) {
  const Resources after = Resources::now();
  EXPECT_EQ(after.fds, before.fds);
  // The allocators' own; sanitizers map their shadow as they go.
  if (!kSanitized) {
    EXPECT_LE(after.maps, before.maps + 4);
  }
  EXPECT_EQ(after.threads, before.threads);
}

using LifetimeTest = FakeTest;

TEST_F(LifetimeTest, HundredsOfDevicesOneAfterTheOther) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  const auto round = [&] {
    const ServedDevice device(control, device_spec(kBytes, 2, 64), memory, {&thread});
    std::vector<std::byte> data(512);
    EXPECT_EQ(driver().disk(device.id())->read(0, 1, data.data()), 0);
  };
  for (int i = 0; i < 20; ++i) round();
  const Resources before = Resources::now();
  for (int i = 0; i < (kSanitized ? 50 : 300); ++i) round();
  expect_no_more(before);
}

TEST_F(LifetimeTest, HundredsOfDevicesAtOnce) {
  constexpr int kDevices = kSanitized ? 60 : 250;
  ublk::Control control(driver());
  RingThread first(32768);
  RingThread second(32768);
  MemoryBackend memory(kBytes);
  const auto round = [&] {
    std::vector<std::unique_ptr<ServedDevice>> devices;
    devices.reserve(kDevices);
    for (int i = 0; i < kDevices; ++i)
      devices.push_back(std::make_unique<ServedDevice>(control, device_spec(kBytes, 2, 32), memory,
                                                       std::vector{&first, &second}));
    EXPECT_EQ(driver().nr_devices(), static_cast<size_t>(kDevices));
    std::vector<std::byte> data(4096);
    for (const auto& device : devices)
      EXPECT_EQ(driver().disk(device->id())->write(0, 8, data.data()), 0);
  };
  round();
  const Resources before = Resources::now();
  round();
  expect_no_more(before);
}

TEST_F(LifetimeTest, DevicesAreAddedWhileOthersWork) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(4 * kBytes);
  const ServedDevice busy(control, device_spec(4 * kBytes, 2, 32), memory, {&thread});
  RandomIo io(driver().disk(busy.id()), {.requests = kSanitized ? 3000u : 30000u});
  MemoryBackend other(kBytes);
  for (int i = 0; i < 30; ++i) {
    const ServedDevice device(control, device_spec(kBytes, 2, 64), other, {&thread});
    RandomIo short_io(driver().disk(device.id()),
                      {.depth = 4, .requests = 20, .zeroing = false, .discards = false});
    ASSERT_TRUE(short_io.wait(kHung));
  }
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
}

// A submit queue of 256 under 4096 tags, also with a completion queue that overflows.
TEST_F(LifetimeTest, DeepQueueOnASmallRing) {
  for (const auto& [cq_entries, flags] :
       {std::pair(8192u, uint64_t{0}), {256u, 0}, {8192u, abi::kFlagBatchIo}}) {
    ublk::Control control(driver());
    RingThread thread(cq_entries);
    MemoryBackend memory(4 * kBytes);
    WorkersBackend workers(memory, 2);
    ublk::Backend* const backends[] = {&memory, &workers};
    for (ublk::Backend* backend : backends) {
      ublk::DeviceSpec spec = device_spec(4 * kBytes, 1, abi::kMaxQueueDepth, 0, flags);
      spec.info.max_io_buf_bytes = 4096;
      spec.params.basic.max_sectors = 8;
      const ServedDevice device(control, spec, *backend, {&thread});
      const auto disk = driver().disk(device.id());
      RandomIo io(disk, {.depth = abi::kMaxQueueDepth,
                         .requests = kSanitized ? 20000u : 100000u,
                         .max_sectors = 1});
      ASSERT_TRUE(io.wait(kHung)) << io.completed() << " requests have ended";
      EXPECT_EQ(io.error(), "");
      EXPECT_EQ(disk->write_zeroes(0, 4 * kBytes / 512), 0);
    }
  }
}

// ------------------------------------------------------------- own buffers --

class OwnBuffersBackend : public MemoryBackend {
 public:
  using MemoryBackend::MemoryBackend;

  std::byte* alloc_io_buffer(ublk::Queue& queue, uint16_t tag, size_t bytes) override {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(bytes, queue.node().info().max_io_buf_bytes);
    EXPECT_TRUE(tags.insert({queue.index(), tag}).second) << "allocated twice";
    if (tags.size() > limit) {
      tags.erase({queue.index(), tag});
      return nullptr;
    }
    auto* buffer = static_cast<std::byte*>(std::aligned_alloc(4096, bytes));
    buffers.insert(buffer);
    return buffer;
  }
  void free_io_buffer(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(tags.erase({queue.index(), tag}), 1u);
    EXPECT_EQ(buffers.erase(buffer), 1u);
    std::free(buffer);
  }
  void submit(ublk::Request request) override {
    if (request.buffer() != nullptr) {
      const std::lock_guard lock(mutex);
      EXPECT_EQ(buffers.count(request.buffer()), 1u);
    }
    MemoryBackend::submit(std::move(request));
  }

  std::mutex mutex;
  std::set<std::pair<uint16_t, uint16_t>> tags;
  std::set<std::byte*> buffers;
  size_t limit = SIZE_MAX;
};

TEST_F(LifetimeTest, BackendsOwnBuffersAreUsedAndGivenBack) {
  OwnBuffersBackend backend(kBytes);
  ublk::Control control(driver());
  RingThread thread;
  {
    const ServedDevice device(control, device_spec(kBytes, 2, 16), backend, {&thread});
    {
      const std::lock_guard lock(backend.mutex);
      EXPECT_EQ(backend.tags.size(), 32u);
    }
    RandomIo io(driver().disk(device.id()), {.requests = 2000});
    ASSERT_TRUE(io.wait(kHung));
    EXPECT_EQ(io.error(), "");
  }
  EXPECT_TRUE(backend.tags.empty());
  EXPECT_TRUE(backend.buffers.empty());
}

TEST_F(LifetimeTest, FailedAllocationUndoesTheAttach) {
  OwnBuffersBackend backend(kBytes);
  backend.limit = 20;  // in the middle of the second queue
  ublk::Control control(driver());
  RingThread thread;
  ublk::Device device(control, device_spec(kBytes, 2, 16));
  {
    CountedBackend counted(backend);
    thread.attach(device.node(), 0, counted);
    counted.attached();
    EXPECT_THROW(thread.attach(device.node(), 1, counted), std::bad_alloc);
    {
      const std::lock_guard lock(backend.mutex);
      EXPECT_EQ(backend.tags.size(), 16u) << "the first queue's and no other";
    }
    device.stop();
  }
  EXPECT_TRUE(backend.tags.empty());
}

// ------------------------------------------------------- what goes wrong --

class FailureBackend : public MemoryBackend {
 public:
  using MemoryBackend::MemoryBackend;
  void failed(ublk::Queue&, uint16_t tag, int error) override {
    const std::lock_guard lock(mutex);
    failures.emplace_back(tag, error);
  }
  void stopped(ublk::Queue&) override { ++queues_stopped; }

  std::mutex mutex;
  std::vector<std::pair<uint16_t, int>> failures;
  std::atomic<int> queues_stopped{0};
};

TEST_F(LifetimeTest, QueueThatTheDeviceHasNotIsRefused) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  ublk::Device device(control, device_spec(kBytes, 2));
  const ublk::Error error = error_of([&] { thread.attach(device.node(), 2, memory); });
  EXPECT_EQ(error.error(), EINVAL);
  EXPECT_EQ(thread.call([](ublk::Ring& ring) { return ring.nr_queues(); }), 0u);
}

TEST_F(LifetimeTest, FailedFetchIsReportedAndTheRestGoesOn) {
  FailureBackend backend(kBytes);
  driver().faults().fail(IoOp::kFetchReq, EBUSY, 3);
  ublk::Control control(driver());
  RingThread thread;
  ublk::Device device(control, device_spec(kBytes, 1, 8));
  {
    CountedBackend counted(backend);
    thread.attach(device.node(), 0, counted);
    counted.attached();
    // The third tag is missing for ever.
    EXPECT_EQ(error_of([&] { device.start(std::chrono::milliseconds(100)); }).error(), ETIMEDOUT);
    device.stop();
  }
  EXPECT_EQ(backend.failures, (std::vector<std::pair<uint16_t, int>>{{2, EBUSY}}));
  EXPECT_EQ(backend.queues_stopped, 1);
}

TEST_F(LifetimeTest, RefusedCommitIsReportedAndTheRestGoesOn) {
  FailureBackend backend(kBytes);
  {
    ublk::Control control(driver());
    RingThread thread;
    ServedDevice device(control, device_spec(kBytes, 1, 4), backend, {&thread});
    const auto disk = driver().disk(device.id());
    std::vector<std::byte> data(512);
    driver().faults().fail(IoOp::kCommitAndFetchReq, EINVAL);
    EXPECT_EQ(disk->read(0, 1, data.data()), -EIO);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(disk->read(0, 1, data.data()), 0);
  }
  ASSERT_EQ(backend.failures.size(), 1u);
  EXPECT_EQ(backend.failures[0].second, EINVAL);
  EXPECT_EQ(backend.queues_stopped, 1);
}

// What the kernel does not take of a worker's COMMIT, all of it or a part, the ring's thread
// commits again, each alone: no tag is lost.
TEST_F(LifetimeTest, CommitThatIsNotTakenIsTriedAgain) {
  constexpr int kRequests = 4;
  std::mutex mutex;
  std::vector<ublk::Request> held;
  FunctionBackend backend([&](ublk::Request request) {
    if (request.op() == ublk::Operation::kRead) {
      std::memset(request.buffer(), 0, request.length());
      request.complete(static_cast<int>(request.length()));
      return;
    }
    const std::lock_guard lock(mutex);
    held.push_back(std::move(request));
  });
  ublk::Control control(driver());
  RingThread thread;
  ServedDevice device(control, device_spec(kBytes, 1, 8, 0, abi::kFlagBatchIo), backend, {&thread});
  const auto disk = driver().disk(device.id());
  std::vector<std::byte> data(512);
  for (int taken = 0; taken < kRequests; ++taken) {
    std::atomic<int> ended{0};
    for (int i = 0; i < kRequests; ++i)
      disk->submit({.op = ublk::Operation::kWrite, .sectors = 1, .data = data.data()},
                   [&](int result) {
                     EXPECT_EQ(result, 0);
                     ++ended;
                   });
    const auto nr_held = [&] {
      const std::lock_guard lock(mutex);
      return held.size();
    };
    ASSERT_TRUE(test::eventually([&] { return nr_held() == kRequests; }, kHung)) << nr_held();
    if (taken == 0)
      driver().faults().fail(IoOp::kCommitIoCmds, ENOMEM);
    else
      driver().faults().shorten_commit(taken);
    ublk::CompletionBatch batch;
    for (ublk::Request& request : held) EXPECT_TRUE(request.complete(512, &batch));
    EXPECT_TRUE(batch.pending());
    EXPECT_EQ(ended, 0);
    batch.flush();
    held.clear();
    ASSERT_TRUE(test::eventually([&] { return ended == kRequests; }, kHung))
        << ended << " have ended, of which the kernel took at once: " << taken;
  }
}

// What has failed for want of memory has done nothing, and is tried again.
TEST_F(LifetimeTest, BatchCommandsAreRepeatedWhenMemoryWasShort) {
  FailureBackend backend(kBytes);
  driver().faults().fail(IoOp::kFetchIoCmds, ENOMEM);
  {
    ublk::Control control(driver());
    RingThread thread;
    ServedDevice device(control, device_spec(kBytes, 1, 4, 0, abi::kFlagBatchIo), backend,
                        {&thread});
    const auto disk = driver().disk(device.id());
    std::vector<std::byte> data(512);
    for (int i = 0; i < 20; ++i) {
      driver().faults().fail(IoOp::kCommitIoCmds, ENOMEM);
      EXPECT_EQ(disk->write(0, 1, data.data()), 0) << i;
    }
  }
  EXPECT_TRUE(backend.failures.empty());
  EXPECT_EQ(backend.queues_stopped, 1);
}

TEST_F(LifetimeTest, RefusedPreparationIsReported) {
  FailureBackend backend(kBytes);
  driver().faults().fail(IoOp::kPrepIoCmds, ENOMEM);
  ublk::Control control(driver());
  RingThread thread;
  ublk::Device device(control, device_spec(kBytes, 1, 8, 0, abi::kFlagBatchIo));
  {
    CountedBackend counted(backend);
    thread.attach(device.node(), 0, counted);
    counted.attached();
    EXPECT_EQ(error_of([&] { device.start(std::chrono::milliseconds(100)); }).error(), ETIMEDOUT);
    device.stop();
  }
  EXPECT_EQ(backend.failures, (std::vector<std::pair<uint16_t, int>>{{0, ENOMEM}}));
  EXPECT_EQ(backend.queues_stopped, 1);
}

TEST_F(LifetimeTest, QueueAttachedTwiceFailsTheSecondOnly) {
  FailureBackend twice(kBytes);
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  ServedDevice device(control, device_spec(kBytes, 1, 16), memory, {&thread});
  {
    CountedBackend counted(twice);
    thread.attach(device.device().node(), 0, counted);
    counted.attached();
  }  // it has stopped by itself
  EXPECT_EQ(twice.failures.size(), 16u);
  EXPECT_EQ(twice.failures.front().second, EBUSY);
  RandomIo io(driver().disk(device.id()), {.requests = 1000});
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
}

TEST_F(LifetimeTest, QueuesEndWithoutStopWhenTheKernelGivesThemUp) {
  FailureBackend backend(kBytes);
  ublk::Control control(driver());
  RingThread thread;
  std::unique_ptr<CountedBackend> counted = std::make_unique<CountedBackend>(backend);
  ublk::Device device(control, device_spec(kBytes, 2, 16));
  for (const uint16_t queue : {0, 1}) {
    thread.attach(device.node(), queue, *counted);
    counted->attached();
  }
  device.start();
  driver().cancel_queues(device.id());
  counted.reset();  // waits until both have stopped
  EXPECT_EQ(backend.queues_stopped, 2);
  EXPECT_TRUE(backend.failures.empty());
}

// A signal ends the kernel's waiting, and a submission halfway, with EINTR.
TEST_F(LifetimeTest, SignalsToTheRingsThreadLoseNoRequest) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};  // and no SA_RESTART
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  {
    ublk::Control control(driver());
    RingThread thread;
    MemoryBackend memory(4 * kBytes);
    WorkersBackend workers(memory, 2);
    for (const uint64_t flags : {uint64_t{0}, abi::kFlagBatchIo}) {
      const ServedDevice device(control, device_spec(4 * kBytes, 2, 32, 0, flags), workers,
                                {&thread});
      const auto disk = driver().disk(device.id());
      RandomIo io(disk, {.requests = kSanitized ? 2000u : 20000u});
      const pthread_t target = thread.call([](ublk::Ring&) { return pthread_self(); });
      while (!io.wait(std::chrono::milliseconds(0))) pthread_kill(target, SIGUSR1);
      EXPECT_EQ(io.error(), "");
      EXPECT_EQ(disk->write_zeroes(0, 4 * kBytes / 512), 0);
    }
  }
  sigaction(SIGUSR1, &before, nullptr);
}

// ------------------------------------------------------------------- memory --

// A device that nobody has used costs no pages of buffers.
TEST_F(LifetimeTest, UntouchedBuffersCostNoMemory) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need memory of their own";
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  const auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    long size = 0;
    long pages = 0;
    statm >> size >> pages;
    return pages * 4;
  };
  const ServedDevice first(control, device_spec(kBytes, 1, 128), memory, {&thread});
  const long before = resident();
  std::vector<std::unique_ptr<ServedDevice>> devices;
  devices.reserve(20);
  for (int i = 0; i < 20; ++i)
    devices.push_back(std::make_unique<ServedDevice>(control, device_spec(kBytes, 1, 128), memory,
                                                     std::vector{&thread}));
  // 128 tags of 256 KiB each are 32 MiB a device.
  EXPECT_LT(resident() - before, 20 * 256) << "KiB";
}

}  // namespace
}  // namespace fake
