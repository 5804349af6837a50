// SPDX-License-Identifier: MIT
// A queue on a driver that the test plays, with a handler whose answers the test gives.
#ifndef UBLK_TESTS_UNIT_DEVICE_QUEUE_FIXTURE_H
#define UBLK_TESTS_UNIT_DEVICE_QUEUE_FIXTURE_H

#include <gtest/gtest.h>
#include <ublk/device.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "device_queue.h"
#include "eventually.h"
#include "log.h"
#include "scripted_driver.h"

namespace ublk_runner {

namespace abi = ublk::abi;
using test::eventually;

inline constexpr uint16_t kDepth = 4;
inline constexpr uint32_t kBlock = 4096;
inline constexpr uint64_t kSectors = 1 << 20;
inline constexpr uint32_t kScratchSize = 40;
inline constexpr uint64_t kMillisecond = 1'000'000;  // in nanoseconds

inline abi::IoDesc request(ublk_op op, uint64_t offset, uint32_t length, uint32_t flags = 0) {
  return {.op_flags = op | flags,
          .nr_sectors = length / abi::kSectorSize,
          .start_sector = op == UBLK_OP_FLUSH ? UINT64_MAX : offset / abi::kSectorSize,
          .addr = 0};
}

enum class Where : uint8_t { kQueueThread, kWorker };

// A handler whose answers the test gives, and one queue of it on a thread of its own; with kWorker
// the handler is called by one worker.
class DeviceQueueTest : public testing::TestWithParam<Where> {
 protected:
  using Submit = std::function<int(ublk_request&)>;

  void SetUp() override {
    set_log_level(LogLevel::kError);
    table_.name = "scripted";
    table_.request_private_size = kScratchSize;
    table_.submit = [](void* instance, ublk_queue* queue, ublk_request* request) {
      auto& test = *static_cast<DeviceQueueTest*>(instance);
      EXPECT_EQ(queue, test.queue_.get());
      std::shared_ptr<Submit> submit;
      {
        const std::lock_guard lock(test.mutex_);
        test.seen_.push_back(*request);
        submit = test.submit_;
      }
      return (*submit)(*request);
    };
    if (on_worker()) workers_.emplace(pools_->workers(), 1);
  }

  static bool on_worker() { return GetParam() == Where::kWorker; }

  void TearDown() override {
    if (opened_ && !closed_) stop();
    EXPECT_TRUE(released_ || queue_ == nullptr);
  }

  static constexpr RequestRules kRules = {
      .sectors = kSectors, .block_sectors = kBlock / abi::kSectorSize, .operations = 0x2f};

  std::shared_ptr<DeviceQueue> make_queue(const RequestRules& rules) {
    DeviceQueueEvents events;
    events.failed = [](uint16_t tag, int error) {
      ADD_FAILURE() << "tag " << tag << " failed with " << error;
    };
    events.released = [this] { released_ = true; };
    events.closed = [this] { closed_promise_.set_value(); };
    return std::make_shared<DeviceQueue>(
        DeviceQueue::Handler{.table = table_,
                             .instance = this,
                             .device = "test",
                             .workers = on_worker() ? &*workers_ : nullptr,
                             .buffers = buffers_,
                             .zero_copy = zero_copy_,
                             .statistics = statistics_,
                             .io_timeout = io_timeout_,
                             .fails_late_requests = true},
        thread_, 0, kDepth, rules, events);
  }

  void open(const RequestRules& rules = kRules) {
    queue_ = make_queue(rules);
    abi::DevInfo info = driver_.info();
    info.flags = device_flags_;
    on_thread(
        [&] { queue_->open(ublk::DeviceNode::open(driver_, info), std::make_shared<int>()); });
    opened_ = true;
  }

  // Gives the queue, which is held, to another one, with what is set by now.
  void take_over() {
    const std::shared_ptr<DeviceQueue> before = queue_;
    queue_ = make_queue(kRules);
    on_thread([&] { queue_->take_over(*before, std::make_shared<int>()); });
    wait_closed();
    closed_promise_ = {};
    closed_ = false;
  }

  void stop() {
    on_thread([&] { driver_.stop(thread_.ring()); });
    wait_closed();
  }

  void wait_closed() {
    ASSERT_EQ(closed_promise_.get_future().wait_for(std::chrono::seconds(10)),
              std::future_status::ready);
    closed_ = true;
  }

  // Runs `function` on the queue's thread and waits for it.
  template <class F>
  void on_thread(F function) {
    const auto done = std::make_shared<std::promise<Outcome<void>>>();
    std::future<Outcome<void>> outcome = done->get_future();
    thread_.post([&function, done] { done->set_value(Outcome<void>::of(function)); });
    outcome.get().take();
  }

  // What the handler does from now on.
  void set_handler(Submit submit) {
    const std::lock_guard lock(mutex_);
    submit_ = std::make_shared<Submit>(std::move(submit));
  }

  void push(uint16_t tag, const abi::IoDesc& io) {
    on_thread([&] { driver_.push(thread_.ring(), tag, io); });
  }
  // The result that the kernel gets.
  int result_of(const abi::IoDesc& io, uint16_t tag = 0) {
    push(tag, io);
    return driver_.committed(tag);
  }

  std::vector<ublk_request> seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  // Pushes reads with tags 0 to 3: a worker has the one whose tag is returned, until `go_on` is
  // set, and the others wait for it.
  uint16_t push_reads_until(std::promise<void>& go_on) {
    set_handler([may_go_on = go_on.get_future().share()](ublk_request& r) {
      may_go_on.wait();
      return static_cast<int>(r.length);
    });
    for (uint16_t tag = 0; tag < 4; ++tag) push(tag, request(UBLK_OP_READ, 0, 4096));
    return wait_seen(1).tag;
  }
  ublk_request wait_seen(size_t count) {
    if (!eventually([&] { return seen().size() >= count; }))
      throw std::runtime_error("the handler has seen " + std::to_string(seen().size()) +
                               " requests of " + std::to_string(count));
    return seen()[count - 1];
  }

  // What the handler leaves unanswered until it is failed for it. (Where a worker was so late that
  // the handler has never seen it, once more.)
  ublk_request late(const abi::IoDesc& io, uint16_t tag) {
    const size_t before = seen().size();
    while (seen().size() == before) EXPECT_EQ(result_of(io, tag), -ETIMEDOUT);
    return seen().back();
  }

  ublk_handler table_{};
  std::shared_ptr<Submit> submit_ =
      std::make_shared<Submit>([](ublk_request& r) { return static_cast<int>(r.length); });
  ublk_test::ScriptedDriver driver_{kDepth};
  const std::shared_ptr<SharedPools> pools_ = SharedPools::make(MainContext(), 64 << 20);
  std::shared_ptr<ublk::BufferPool::Device> buffers_;
  uint64_t device_flags_ = 0;
  bool zero_copy_ = false;  // of the handler
  QueueThread thread_{MainContext(), pools_, 0, std::chrono::microseconds(0)};
  std::shared_ptr<QueueStatistics> statistics_;
  std::chrono::milliseconds io_timeout_{0};
  std::shared_ptr<DeviceQueue> queue_;
  std::promise<void> closed_promise_;
  bool opened_ = false;
  bool closed_ = false;
  std::atomic<bool> released_{false};
  std::mutex mutex_;
  std::vector<ublk_request> seen_;
  std::optional<WorkerPool::Client> workers_;  // the first to go: it waits for those in submit()
};

}  // namespace ublk_runner

#endif  // UBLK_TESTS_UNIT_DEVICE_QUEUE_FIXTURE_H
