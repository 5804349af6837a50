// SPDX-License-Identifier: MIT
// What goes wrong while queues are served: it is told, and the rest goes on.
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
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

using LifetimeTest = FakeTest;

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

}  // namespace
}  // namespace fake
