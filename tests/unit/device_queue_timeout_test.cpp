// SPDX-License-Identifier: MIT
// Requests that the handler answers too late, or never.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <thread>

#include "device_queue_fixture.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, ALateAnswerFindsItsMemoryAsItWas) {
  io_timeout_ = std::chrono::milliseconds(40);
  open();
  set_handler([](ublk_request& r) {
    std::fill_n(static_cast<unsigned char*>(r.scratch), kScratchSize, 0x11);
    return UBLK_PENDING;
  });
  const ublk_request first = late(request(UBLK_OP_READ, 4096, 8192), 2);

  // The tag's next request has nothing of it, and the same again.
  for (int next = 0; next < 2; ++next) {
    const ublk_request other = late(request(UBLK_OP_WRITE, 0, 4096), 2);
    EXPECT_NE(other.id, first.id);
    EXPECT_EQ(other.tag, 2);
    EXPECT_NE(other.buffer, first.buffer);
    EXPECT_NE(other.scratch, first.scratch);
    EXPECT_EQ(other.flags & UBLK_REQUEST_TAG_BUFFER, 0u) << "it is another buffer";
  }
  on_thread([&] { EXPECT_EQ(queue_->dispatched(), 3u) << "the handler has them"; });

  std::fill_n(static_cast<std::byte*>(first.buffer), 8192, std::byte{0xee});
  for (const ublk_request& r : seen()) EXPECT_EQ(DeviceQueue::complete(r.id, 4096), -EALREADY);
  const auto left = [this] {
    unsigned dispatched = 0;
    on_thread([&] { dispatched = queue_->dispatched(); });
    return dispatched;
  };
  EXPECT_TRUE(eventually([&] { return left() == 0; })) << left();

  set_handler([](ublk_request& r) { return static_cast<int>(r.length); });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 2), 4096);
}

TEST_P(DeviceQueueTest, ARequestThatIsAnsweredInPartsInTimeGoesOn) {
  io_timeout_ = std::chrono::milliseconds(400);
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 0, 16384));
  for (size_t part = 1; part <= 4; ++part) {
    const uint64_t id = wait_seen(part).id;
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    if (DeviceQueue::complete(id, 4096) != 0) GTEST_SKIP() << "this machine is too slow";
  }
  EXPECT_EQ(driver_.committed(0), 16384);
}

TEST_P(DeviceQueueTest, AQueueIsClosedWhenTheLastLateAnswerHasCome) {
  io_timeout_ = std::chrono::milliseconds(40);
  static std::atomic<bool> queue_closed;
  queue_closed = false;
  table_.queue_close = [](void*, ublk_queue*, void*) {
    queue_closed = true;
    return 0;
  };
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  const uint64_t id = late(request(UBLK_OP_FLUSH, 0, 0), 0).id;
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_TRUE(eventually([&] { return released_.load(); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(queue_closed) << "the handler has a request";
  EXPECT_EQ(DeviceQueue::complete(id, 0), -EALREADY);
  wait_closed();
  EXPECT_TRUE(queue_closed);
}

TEST_P(DeviceQueueTest, ARequestThatWasOneTooManyFailsOnceOthersAreAnswered) {
  io_timeout_ = std::chrono::milliseconds(200);  // the last one must be with the handler by then
  statistics_ = std::make_shared<QueueStatistics>(0, kDepth);
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  const uint64_t first = late(request(UBLK_OP_READ, 0, 4096), 0).id;
  for (uint16_t tag = 1; tag < kDepth; ++tag) late(request(UBLK_OP_READ, 0, 4096), tag);
  const auto exceeded = [this] {
    uint64_t count = 0;
    on_thread([&] { count = statistics_->timeouts().exceeded.get(); });
    return count;
  };
  const uint64_t before = exceeded();
  push(0, request(UBLK_OP_READ, 0, 4096));
  ASSERT_TRUE(eventually([&] { return exceeded() != before; }));
  EXPECT_FALSE(driver_.has_committed(0));
  EXPECT_EQ(DeviceQueue::complete(first, 4096), -EALREADY);
  EXPECT_EQ(driver_.committed(0), -ETIMEDOUT);
  EXPECT_EQ(exceeded(), before + 1) << "it is counted once";
  for (const ublk_request& r : seen()) DeviceQueue::complete(r.id, 4096);
}

TEST_P(DeviceQueueTest, ABufferIsNotTheTagsOwnAfterAWriteThatNoWorkerHasServed) {
  if (!on_worker()) GTEST_SKIP() << "none waits for one";
  io_timeout_ = std::chrono::milliseconds(400);
  open();
  std::promise<void> go_on;
  set_handler([may_go_on = go_on.get_future().share()](ublk_request& r) {
    may_go_on.wait();
    return static_cast<int>(r.length);
  });
  push(0, request(UBLK_OP_READ, 0, 4096));
  wait_seen(1);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096), 1), -ETIMEDOUT);
  EXPECT_EQ(driver_.committed(0), -ETIMEDOUT);
  go_on.set_value();
  ASSERT_TRUE(
      eventually([&] { return result_of(request(UBLK_OP_READ, 0, 4096), 1) != -ETIMEDOUT; }));
  EXPECT_EQ(seen().back().flags & UBLK_REQUEST_TAG_BUFFER, 0u);
}

// There is no other buffer for its tag, so it can't be failed as long as the queue is to go on.
TEST_P(DeviceQueueTest, ALateRequestThatCouldNotBeFailedIsAbandonedLikeOthers) {
  io_timeout_ = std::chrono::milliseconds(400);
  statistics_ = std::make_shared<QueueStatistics>(0, kDepth);
  static unsigned nr_buffers;
  nr_buffers = 0;
  table_.alloc_io_buffer = [](void*, ublk_queue*, uint16_t, size_t) -> void* {
    alignas(4096) static std::byte buffers[kDepth][64 << 10];
    return nr_buffers == kDepth ? nullptr : buffers[nr_buffers++];
  };
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 0, 4096));
  const uint64_t id = wait_seen(1).id;
  ASSERT_TRUE(eventually([&] {
    uint64_t exceeded = 0;
    on_thread([&] { exceeded = statistics_->timeouts().exceeded.get(); });
    return exceeded != 0;
  }));
  EXPECT_FALSE(driver_.has_committed(0));
  on_thread([&] {
    queue_->refuse();
    EXPECT_EQ(queue_->abandon(), 1u);
    EXPECT_EQ(queue_->dispatched(), 0u);
  });
  EXPECT_EQ(driver_.committed(0), -EIO);
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_TRUE(eventually([&] { return released_.load(); }));
  on_thread([] {});  // the call that said so has returned
  EXPECT_EQ(DeviceQueue::complete(id, 4096), -EALREADY);
  closed_ = true;
}

}  // namespace
}  // namespace ublk_runner
