// SPDX-License-Identifier: MIT
// A backend's own buffers, which queues use and give back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"

namespace fake {
namespace {

constexpr size_t kBytes = 1 << 20;

using LifetimeTest = FakeTest;

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

}  // namespace
}  // namespace fake
