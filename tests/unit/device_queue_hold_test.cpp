// SPDX-License-Identifier: MIT
// A queue that holds what comes until it goes on, or lets go of what it has: requests are refused,
// cancelled and abandoned.
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "device_queue_fixture.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, HeldRequestsAreReleasedInOrder) {
  open();
  on_thread([&] { queue_->hold(); });
  for (const uint16_t tag : {2, 0, 3}) push(tag, request(UBLK_OP_READ, tag * 4096, 4096));
  on_thread([&] { EXPECT_EQ(queue_->dispatched(), 0u); });
  EXPECT_TRUE(seen().empty());
  on_thread([&] { queue_->release(); });
  for (const uint16_t tag : {0, 2, 3}) EXPECT_EQ(driver_.committed(tag), 4096);
  const std::vector<ublk_request> requests = seen();
  EXPECT_EQ(requests[0].tag, 2);
  EXPECT_EQ(requests[1].tag, 0);
  EXPECT_EQ(requests[2].tag, 3);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096)), 4096);
}

TEST_P(DeviceQueueTest, RefusedRequestsFailAndSoDoLaterOnes) {
  open();
  on_thread([&] { queue_->hold(); });
  push(1, request(UBLK_OP_WRITE, 0, 4096));
  on_thread([&] { queue_->refuse(); });
  EXPECT_EQ(driver_.committed(1), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096)), -EIO);
  EXPECT_TRUE(seen().empty());
}

TEST_P(DeviceQueueTest, DrainingWaitsForWhatIsDispatchedAlsoForItsRest) {
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_WRITE, 0, 8192));
  const uint64_t first = wait_seen(1).id;
  std::promise<void> drained;
  std::future<void> is_drained = drained.get_future();
  on_thread([&] {
    queue_->hold();
    queue_->when_drained([&] { drained.set_value(); });
  });
  push(1, request(UBLK_OP_WRITE, 0, 4096));
  DeviceQueue::complete(first, 4096);
  const uint64_t rest = wait_seen(2).id;
  EXPECT_EQ(is_drained.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  DeviceQueue::complete(rest, 4096);
  EXPECT_EQ(is_drained.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(driver_.committed(0), 8192);
  EXPECT_FALSE(driver_.has_committed(1)) << "it is held";
  on_thread([&] { queue_->refuse(); });
}

TEST_P(DeviceQueueTest, RequestsThatAreNotAnsweredAreCancelledOnTheQueuesThread) {
  struct Cancelled {
    std::thread::id thread;
    std::vector<ublk_request> requests;
  };
  static Cancelled cancelled;
  cancelled = {};
  table_.cancel = [](void*, ublk_queue*, ublk_request* r) {
    cancelled.thread = std::this_thread::get_id();
    cancelled.requests.push_back(*r);
    // One completes it in the call, one later.
    if (r->op == UBLK_OP_READ) {
      EXPECT_EQ(DeviceQueue::complete(r->id, -ECANCELED), 0);
    }
  };
  open();
  set_handler(
      [](ublk_request& r) { return r.tag == 1 ? static_cast<int>(r.length) : UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 8192, 4096));
  wait_seen(1);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 1), 4096);
  push(3, request(UBLK_OP_FLUSH, 0, 0));
  wait_seen(3);
  std::thread::id queue_thread;
  on_thread([&] {
    queue_thread = std::this_thread::get_id();
    queue_->refuse();
    queue_->cancel();
  });
  EXPECT_EQ(cancelled.thread, queue_thread);
  ASSERT_EQ(cancelled.requests.size(), 2u);
  EXPECT_EQ(cancelled.requests[0].offset, 8192u);
  EXPECT_EQ(driver_.committed(0), -ECANCELED);
  EXPECT_FALSE(driver_.has_committed(3));
  EXPECT_EQ(DeviceQueue::complete(cancelled.requests[1].id, 0), 0);
  EXPECT_EQ(driver_.committed(3), 0);
  on_thread([&] { EXPECT_EQ(queue_->abandon(), 0u); });
}

TEST_P(DeviceQueueTest, AHandlerNeedNotKnowHowToCancel) {
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 0, 4096));
  const uint64_t id = wait_seen(1).id;
  on_thread([&] { queue_->cancel(); });
  EXPECT_FALSE(driver_.has_committed(0));
  EXPECT_EQ(DeviceQueue::complete(id, 4096), 0);
  EXPECT_EQ(driver_.committed(0), 4096);
}

TEST_P(DeviceQueueTest, AbandonedRequestsFailAndTheirAnswersAreRefused) {
  table_.queue_close = [](void*, ublk_queue*, void*) {
    ADD_FAILURE() << "the handler has requests";
    return 0;
  };
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 0, 4096));
  push(3, request(UBLK_OP_FLUSH, 0, 0));
  const ublk_request read = wait_seen(1);
  wait_seen(2);
  on_thread([&] {
    queue_->refuse();
    EXPECT_EQ(queue_->abandon(), 2u);
    EXPECT_EQ(queue_->dispatched(), 0u);
  });
  EXPECT_EQ(driver_.committed(0), -EIO);
  EXPECT_EQ(driver_.committed(3), -EIO);
  EXPECT_EQ(DeviceQueue::complete(read.id, 4096), -EALREADY);
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_TRUE(eventually([&] { return released_.load(); }));
  on_thread([] {});  // the call that said so has returned
  std::fill_n(static_cast<std::byte*>(read.buffer), 4096, std::byte{1});  // it is still there
  closed_ = true;
}

// The handler may write it out when its storage answers at last.
TEST_P(DeviceQueueTest, AbandonedDataIsNotOverwrittenByTheNextWrite) {
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(1, request(UBLK_OP_WRITE, 0, 4096));
  const auto buffer = reinterpret_cast<uint64_t>(wait_seen(1).buffer);
  on_thread([&] {
    queue_->refuse();
    EXPECT_EQ(queue_->abandon(), 1u);
  });
  EXPECT_EQ(driver_.committed(1), -EIO);
  EXPECT_NE(driver_.address_of(1), buffer);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 8192, 4096), 1), -EIO);
  EXPECT_NE(driver_.address_of(1), buffer);
  EXPECT_NE(driver_.address_of(1), 0u);
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_TRUE(eventually([&] { return released_.load(); }));
  on_thread([] {});  // the call that said so has returned
  closed_ = true;
}

TEST_P(DeviceQueueTest, RequestsThatWaitForAWorkerAreDropped) {
  if (!on_worker()) GTEST_SKIP() << "none waits for one";
  open();
  std::promise<void> go_on;
  push_reads_until(go_on);
  on_thread([&] {
    queue_->refuse();
    thread_.feeder().flush();
    EXPECT_EQ(queue_->abandon(), 1u);
  });
  WorkerPool::ItemList queued = workers_->drop_queued();
  while (WorkerPool::Item* item = queued.pop()) DeviceQueue::drop(*item);
  for (uint16_t tag = 0; tag < 4; ++tag) EXPECT_EQ(driver_.committed(tag), -EIO);
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_TRUE(eventually([&] { return released_.load(); }));
  go_on.set_value();
  workers_.reset();
  EXPECT_EQ(seen().size(), 1u);
  closed_ = true;
}

// The handler has been asked to cancel what it has, and is not asked again.
TEST_P(DeviceQueueTest, WhatWaitsForAWorkerIsNotSubmittedAfterACancel) {
  if (!on_worker()) GTEST_SKIP() << "none waits for one";
  table_.cancel = [](void*, ublk_queue*, ublk_request*) {};
  open();
  std::promise<void> go_on;
  const uint16_t first = push_reads_until(go_on);
  on_thread([&] {
    queue_->refuse();
    thread_.feeder().flush();
    queue_->cancel();
  });
  go_on.set_value();
  for (uint16_t tag = 0; tag < 4; ++tag)
    EXPECT_EQ(driver_.committed(tag), tag == first ? 4096 : -EIO);
  EXPECT_EQ(seen().size(), 1u);
}

// The copy would be taken for the offset in what is registered.
TEST_P(DeviceQueueTest, AHeldCopyIsNotGivenToAHandlerWithZeroCopy) {
  if (on_worker()) GTEST_SKIP() << "a worker copies when it serves";
  device_flags_ = abi::kFlagUserCopy | abi::kFlagAutoBufReg;
  buffers_ = std::make_shared<ublk::BufferPool::Device>(pools_->buffers(), 64 << 10);
  open();
  set_handler([this](ublk_request&) {
    queue_->hold();
    return 0;
  });
  on_thread([this] {  // the flush comes before the write is copied
    driver_.push(thread_.ring(), 0, request(UBLK_OP_WRITE, 0, 4096));
    driver_.push(thread_.ring(), 1, request(UBLK_OP_FLUSH, 0, 0));
  });
  EXPECT_EQ(driver_.committed(1), 0);
  for (unsigned left = 1; left != 0;) on_thread([&] { left = queue_->dispatched(); });
  EXPECT_EQ(seen().size(), 1u);
  EXPECT_NE(pools_->buffers().stats().in_use, 0u);

  zero_copy_ = true;
  take_over();
  EXPECT_EQ(pools_->buffers().stats().in_use, 0u);
  set_handler([](ublk_request& r) { return static_cast<int>(r.length); });
  on_thread([this] { queue_->release(); });
  EXPECT_EQ(driver_.committed(0), 4096);
  EXPECT_EQ(seen().back().buffer, nullptr);
  EXPECT_GE(seen().back().buffer_index, 0);
}

}  // namespace
}  // namespace ublk_runner
