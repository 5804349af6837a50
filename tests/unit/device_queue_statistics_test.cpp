// SPDX-License-Identifier: MIT
// What a queue counts and measures, and that it does neither unless it is told to.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#include "device_queue_fixture.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, NoClockIsReadUnlessStatisticsAreOn) {
  const auto statistics = std::make_shared<QueueStatistics>(0, kDepth);
  statistics_ = statistics;
  open();
  const auto time = [this] {
    uint64_t last = 0;
    on_thread([&] { last = thread_.clock().last(); });
    return last;
  };
  for (int i = 0; i < 10; ++i) result_of(request(UBLK_OP_READ, 0, 4096));
  EXPECT_EQ(time(), 0u);
  EXPECT_EQ(statistics->counters().operations[0].requests, 0u);

  on_thread([&] { queue_->use_statistics(true); });
  const uint64_t before = time();
  EXPECT_NE(before, 0u);
  result_of(request(UBLK_OP_READ, 0, 4096));
  result_of(request(UBLK_OP_WRITE, kSectors * abi::kSectorSize, 4096));  // past the end
  EXPECT_GT(time(), before);
  on_thread([&] {
    const DeviceStatistics counted = statistics->collect();
    EXPECT_EQ(counted.operations[0].requests, 1u);
    EXPECT_EQ(counted.operations[0].bytes, 4096u);
    EXPECT_EQ(counted.operations[1].requests, 1u);
    EXPECT_EQ(counted.operations[1].errors, 1u);
    ASSERT_EQ(counted.slowest.size(), 2u);
  });

  on_thread([&] { queue_->use_statistics(false); });
  const uint64_t after = time();
  result_of(request(UBLK_OP_READ, 0, 4096));
  EXPECT_EQ(time(), after) << "it stands still again";
}

TEST_P(DeviceQueueTest, TheTimeUntilALaterAnswerIsTheHandlers) {
  const auto statistics = std::make_shared<QueueStatistics>(0, kDepth);
  statistics_ = statistics;
  open();
  on_thread([&] { queue_->use_statistics(true); });
  set_handler([](ublk_request&) { return UBLK_PENDING; });
  push(0, request(UBLK_OP_READ, 8192, 4096));
  const uint64_t id = wait_seen(1).id;
  on_thread([&] {
    EXPECT_EQ(statistics->collect().operations[0].in_flight, 1u);
    EXPECT_GT(statistics->collect().oldest, 0u);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(DeviceQueue::complete(id, 4096), 0);
  EXPECT_EQ(driver_.committed(0), 4096);
  on_thread([&] {
    const SlowRequest slow = statistics->collect().slowest.at(0);
    EXPECT_EQ(slow.sector, 16u);
    EXPECT_EQ(slow.length, 4096u);
    EXPECT_EQ(slow.result, 4096);
    EXPECT_GE(slow.stages[kHandler], 20 * kMillisecond);
    EXPECT_EQ(slow.stages[kTotal],
              slow.stages[kQueue] + slow.stages[kHandler] + slow.stages[kCommit]);
  });
}

}  // namespace
}  // namespace ublk_runner
