// SPDX-License-Identifier: MIT
// A queue is opened and closed when the handler has done so.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <stdexcept>

#include "device_queue_fixture.h"
#include "host.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, AQueueThatTheHandlerCantOpenReportsWhyAndIsClosed) {
  table_.queue_open = [](void*, ublk_queue*, void**) {
    handler_host().set_error(nullptr, "no %s", "luck");
    return -EBUSY;
  };
  table_.queue_close = [](void*, ublk_queue*, void*) {
    ADD_FAILURE() << "it was never open";
    return 0;
  };
  try {
    open();
    ADD_FAILURE() << "opened";
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "queue_open: no luck");
  }
  wait_closed();
}

TEST_P(DeviceQueueTest, AQueueIsClosedWhenTheHandlerSaysSo) {
  table_.queue_open = [](void*, ublk_queue* queue, void** data) {
    *data = queue;
    return 0;
  };
  static std::promise<void> asked;
  asked = {};
  table_.queue_close = [](void*, ublk_queue* queue, void* data) {
    EXPECT_EQ(queue, data);
    asked.set_value();
    return UBLK_PENDING;
  };
  open();
  on_thread([&] { driver_.stop(thread_.ring()); });
  ASSERT_EQ(asked.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  std::future<void> closed = closed_promise_.get_future();
  EXPECT_EQ(closed.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  on_thread([&] { handler_host().queue_closed(queue_.get()); });
  EXPECT_EQ(closed.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  closed_ = true;
}

}  // namespace
}  // namespace ublk_runner
