// SPDX-License-Identifier: MIT
// Every request gets one result that the kernel can take, whatever the handler does.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <thread>
#include <vector>

#include "device_queue_fixture.h"

namespace ublk_runner {
namespace {

// For the tests of all files of this program.
INSTANTIATE_TEST_SUITE_P(On, DeviceQueueTest, testing::Values(Where::kQueueThread, Where::kWorker),
                         [](const auto& where) {
                           return where.param == Where::kWorker ? "Worker" : "QueueThread";
                         });

TEST_P(DeviceQueueTest, AWholeResultIsCommitted) {
  open();
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 8192, 12288, abi::kIoFlagFua)), 12288);
  const ublk_request r = wait_seen(1);
  EXPECT_EQ(r.op, UBLK_OP_WRITE);
  EXPECT_EQ(r.offset, 8192u);
  EXPECT_EQ(r.length, 12288u);
  EXPECT_EQ(r.flags, UBLK_REQUEST_FUA | UBLK_REQUEST_TAG_BUFFER);
  EXPECT_NE(r.buffer, nullptr);
}

TEST_P(DeviceQueueTest, FlushAndDiscardHaveNoDataAndCommitZero) {
  open();
  set_handler([](ublk_request&) { return 5; });
  EXPECT_EQ(result_of(request(UBLK_OP_FLUSH, 0, 4096)), 0);
  EXPECT_EQ(result_of(request(UBLK_OP_DISCARD, 4096, 4096)), 0);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE_ZEROES, 4096, 4096, abi::kIoFlagNoUnmap)), 0);
  const std::vector<ublk_request> requests = seen();
  EXPECT_EQ(requests[0].offset, 0u);
  EXPECT_EQ(requests[0].length, 0u);
  EXPECT_EQ(requests[1].buffer, nullptr);
  EXPECT_EQ(requests[2].flags, UBLK_REQUEST_NO_UNMAP);
}

TEST_P(DeviceQueueTest, AShortResultIsSubmittedAgainForTheRest) {
  open();
  set_handler([](ublk_request& r) { return static_cast<int>(std::min(r.length, 5000u)); });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 4096, 16384)), 16384);
  const std::vector<ublk_request> requests = seen();
  ASSERT_EQ(requests.size(), 4u);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].offset, 4096 + i * 5000);
    EXPECT_EQ(requests[i].length, 16384 - i * 5000);
    EXPECT_EQ(requests[i].buffer, static_cast<std::byte*>(requests[0].buffer) + i * 5000);
    if (i > 0) {
      EXPECT_NE(requests[i].id, requests[i - 1].id);
    }
  }
}

TEST_P(DeviceQueueTest, AShortResultFromAnotherThreadIsContinuedOnTheQueues) {
  open();
  std::thread::id submitter[2];
  set_handler([&, calls = 0](ublk_request& r) mutable {
    submitter[calls] = std::this_thread::get_id();
    return ++calls == 1 ? UBLK_PENDING : static_cast<int>(r.length);
  });
  push(0, request(UBLK_OP_WRITE, 0, 8192));
  EXPECT_EQ(DeviceQueue::complete(wait_seen(1).id, 4096), 0);
  EXPECT_EQ(driver_.committed(0), 8192);
  EXPECT_EQ(wait_seen(2).offset, 4096u);
  EXPECT_EQ(submitter[0], submitter[1]) << "the only worker's";
  EXPECT_NE(submitter[1], std::this_thread::get_id());
}

TEST_P(DeviceQueueTest, AShortResultInsideSubmitDoesNotNest) {
  open();
  int depth = 0;
  set_handler([&](ublk_request& r) {
    EXPECT_EQ(++depth, 1);
    EXPECT_EQ(DeviceQueue::complete(r.id, 512), 0);
    --depth;
    return UBLK_PENDING;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 65536)), 65536);
  workers_.reset();
  on_thread([&] { EXPECT_EQ(depth, 0); });
  EXPECT_EQ(seen().size(), 128u);
}

TEST_P(DeviceQueueTest, WhatIsNoResultFailsTheRequest) {
  open();
  const auto committed_for = [&](int answer, ublk_op op = UBLK_OP_READ) {
    set_handler([=](ublk_request&) { return answer; });
    return result_of(request(op, 0, op == UBLK_OP_FLUSH ? 0 : 4096));
  };
  EXPECT_EQ(committed_for(0), -EIO);
  EXPECT_EQ(committed_for(4097), -EIO);
  EXPECT_EQ(committed_for(-4096), -EIO);
  EXPECT_EQ(committed_for(INT_MIN + 1, UBLK_OP_FLUSH), -EIO);
  EXPECT_EQ(committed_for(-ENOSPC), -ENOSPC);
  EXPECT_EQ(committed_for(-4095), -4095);

  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 0, 4096));
  EXPECT_EQ(DeviceQueue::complete(wait_seen(7).id, UBLK_PENDING), 0);
  EXPECT_EQ(driver_.committed(0), -EIO);
}

TEST_P(DeviceQueueTest, ASecondResultIsRefusedAndHarmless) {
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(1, request(UBLK_OP_READ, 0, 4096));
  const uint64_t first = wait_seen(1).id;
  EXPECT_EQ(DeviceQueue::complete(first, 4096), 0);
  EXPECT_EQ(DeviceQueue::complete(first, 4096), -EALREADY);
  EXPECT_EQ(driver_.committed(1), 4096);

  push(1, request(UBLK_OP_READ, 0, 8192));  // the tag's next request
  const uint64_t second = wait_seen(2).id;
  EXPECT_EQ(DeviceQueue::complete(first, 4096), -EALREADY);
  EXPECT_FALSE(driver_.has_committed(1));
  EXPECT_EQ(DeviceQueue::complete(second, 8192), 0);
  EXPECT_EQ(driver_.committed(1), 8192);
  EXPECT_EQ(DeviceQueue::complete(0, 0), -EALREADY);
}

TEST_P(DeviceQueueTest, AResultReturnedAfterCompletingIsIgnored) {
  open();
  set_handler([](ublk_request& r) {
    const uint32_t length = r.length;  // for the completed request is not to be touched
    EXPECT_EQ(DeviceQueue::complete(r.id, -ENOSPC), 0);
    return static_cast<int>(length);
  });
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096)), -ENOSPC);
  set_handler([](ublk_request& r) { return static_cast<int>(r.length); });
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096)), 4096);
  EXPECT_FALSE(driver_.has_committed(0));
}

TEST_P(DeviceQueueTest, TwoThreadsThatCompleteTheSameRequestDoItOnce) {
  open();
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  for (size_t round = 1; round <= 200; ++round) {
    push(0, request(UBLK_OP_READ, 0, 4096));
    const uint64_t id = wait_seen(round).id;
    std::atomic<int> accepted{0};
    const auto complete = [&] { accepted += DeviceQueue::complete(id, 4096) == 0; };
    std::thread other(complete);
    complete();
    other.join();
    EXPECT_EQ(accepted, 1);
    EXPECT_EQ(driver_.committed(0), 4096);
  }
}

}  // namespace
}  // namespace ublk_runner
