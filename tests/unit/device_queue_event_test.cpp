// SPDX-License-Identifier: MIT
// What a handler waits for comes on its queue's thread: the results of its SQEs, and its timers.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <ublk/handler.hpp>

#include "device_queue_fixture.h"
#include "host.h"

namespace ublk_runner {
namespace {

TEST_P(DeviceQueueTest, EventsOfTheHandlersSqesComeBack) {
  if (on_worker()) GTEST_SKIP() << "the ring is not a worker's";
  struct Op : ublk_event {
    uint64_t id;
    int32_t result;
  };
  Op op{};
  op.handle = [](ublk_event* event, int32_t result, uint32_t) {
    DeviceQueue::complete(static_cast<Op*>(event)->id, result == 0 ? 4096 : -EIO);
  };
  open();
  set_handler([&](ublk_request& r) {
    op.id = r.id;
    handler_host().reserve_sqes(queue_.get(), 1);
    io_uring_sqe* sqe = handler_host().get_sqe(queue_.get());
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, ublk_event_user_data(&op));
    return UBLK_PENDING;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096)), 4096);
}

struct Timer : ublk_timer {
  std::promise<void> done;
  std::chrono::steady_clock::time_point at;
  Timer() : ublk_timer{} {
    fired = [](ublk_timer* timer) {
      auto& self = *static_cast<Timer*>(timer);
      self.at = std::chrono::steady_clock::now();
      self.done.set_value();
    };
  }
};

TEST_P(DeviceQueueTest, ATimerFiresOnceAndNotBefore) {
  open();
  Timer timer;
  const auto begin = std::chrono::steady_clock::now();
  on_thread([&] { handler_host().set_timer(queue_.get(), &timer, 20 * kMillisecond); });
  timer.done.get_future().get();
  EXPECT_GE(timer.at - begin, std::chrono::milliseconds(20));
}

TEST_P(DeviceQueueTest, ATimerWhoseTimeIsOverFiresAtOnce) {
  open();
  Timer timer;
  on_thread([&] {
    ublk::HandlerQueue(handler_host(), queue_.get())
        .set_timer(timer, std::chrono::milliseconds(-1));
  });
  EXPECT_EQ(timer.done.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

TEST_P(DeviceQueueTest, SettingASetTimerMovesIt) {
  open();
  Timer timer;
  const auto begin = std::chrono::steady_clock::now();
  on_thread([&] {
    handler_host().set_timer(queue_.get(), &timer, kMillisecond);
    handler_host().set_timer(queue_.get(), &timer, 30 * kMillisecond);
  });
  timer.done.get_future().get();
  EXPECT_GE(timer.at - begin, std::chrono::milliseconds(30));
}

TEST_P(DeviceQueueTest, ACancelledTimerMayBeFreedAtOnce) {
  open();
  for (int round = 0; round < 100; ++round) {
    auto timer = std::make_unique<Timer>();
    on_thread([&] {
      handler_host().set_timer(queue_.get(), timer.get(), (round % 3) * kMillisecond / 10);
      if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
      handler_host().cancel_timer(queue_.get(), timer.get());
      handler_host().cancel_timer(queue_.get(), timer.get());
      timer.reset();
    });
  }
  Timer last;
  on_thread([&] { handler_host().set_timer(queue_.get(), &last, 5 * kMillisecond); });
  last.done.get_future().get();
}

TEST_P(DeviceQueueTest, TimersLeftBehindAreCancelledWithTheQueue) {
  open();
  Timer timer;
  std::future<void> fired = timer.done.get_future();
  on_thread([&] { handler_host().set_timer(queue_.get(), &timer, 100 * kMillisecond); });
  stop();
  if (fired.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    GTEST_SKIP() << "this machine is too slow";
  EXPECT_EQ(fired.wait_for(std::chrono::milliseconds(150)), std::future_status::timeout);
}

}  // namespace
}  // namespace ublk_runner
