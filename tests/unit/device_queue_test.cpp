// SPDX-License-Identifier: MIT
// Every request gets one result that the kernel can take, whatever the handler does.
#include "device_queue.h"

#include <gtest/gtest.h>
#include <ublk/device.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "eventually.h"
#include "host.h"
#include "log.h"
#include "scripted_driver.h"

namespace ublk_runner {
namespace {

namespace abi = ublk::abi;
using test::eventually;

constexpr uint16_t kDepth = 4;
constexpr uint32_t kBlock = 4096;
constexpr uint64_t kSectors = 1 << 20;
constexpr uint32_t kScratchSize = 40;
constexpr uint64_t kMillisecond = 1'000'000;  // in nanoseconds

abi::IoDesc request(ublk_op op, uint64_t offset, uint32_t length, uint32_t flags = 0) {
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

INSTANTIATE_TEST_SUITE_P(On, DeviceQueueTest, testing::Values(Where::kQueueThread, Where::kWorker),
                         [](const auto& where) {
                           return where.param == Where::kWorker ? "Worker" : "QueueThread";
                         });

// ------------------------------------------------------------------- results --

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

// -------------------------------------------------------------------- checks --

TEST_P(DeviceQueueTest, OnlyWhatTheRulesAllowReachesTheHandler) {
  open();
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512 - 4096, 4096)), 4096);
  EXPECT_EQ(seen().size(), 1u);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, kSectors * 512 - 4096, 8192)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, UINT64_MAX - 511, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 512, 4096)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 0)), -EIO);
  EXPECT_EQ(result_of(request(static_cast<ublk_op>(13), 0, 4096)), -EOPNOTSUPP);
  EXPECT_EQ(result_of(request(static_cast<ublk_op>(100), 0, 4096)), -EOPNOTSUPP);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, TheDeviceEndsAfterItsLastSector) {
  open({.sectors = kSectors, .block_sectors = 1, .max_sectors = 128, .operations = 0x2f});
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, (kSectors - 1) * 512, 512)), 512);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, (kSectors - 1) * 512, 1024)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, kSectors * 512, 512)), -EIO);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, ARequestPastTheTagsBufferIsRefused) {
  open({.sectors = kSectors, .block_sectors = 8, .max_sectors = 128, .operations = 0x2f});
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 128 * 512)), 128 * 512);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 136 * 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 136 * 512)), -EIO);
  EXPECT_EQ(result_of(request(UBLK_OP_DISCARD, 0, 136 * 512)), 0);
  EXPECT_EQ(seen().size(), 2u);
}

TEST_P(DeviceQueueTest, AReadOnlyDeviceIsNotWritten) {
  open({.sectors = kSectors,
        .block_sectors = 8,
        .operations = 1 << UBLK_OP_READ,
        .read_only = true});
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096)), 4096);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, 0, 4096)), -EROFS);
  EXPECT_EQ(result_of(request(UBLK_OP_DISCARD, 0, 4096)), -EROFS);
  EXPECT_EQ(result_of(request(UBLK_OP_FLUSH, 0, 0)), -EOPNOTSUPP);
  EXPECT_EQ(seen().size(), 1u);
}

TEST_P(DeviceQueueTest, ScratchIsAlignedZeroedAndTheTags) {
  open();
  set_handler([](ublk_request& r) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(r.scratch) % 64, 0u);
    auto* bytes = static_cast<unsigned char*>(r.scratch);
    for (uint32_t i = 0; i < kScratchSize; ++i) EXPECT_EQ(bytes[i], bytes[0]);
    std::fill_n(bytes, kScratchSize, static_cast<unsigned char>(bytes[0] + 1));
    return static_cast<int>(r.length) - bytes[0] + 1;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 1), 4096);
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 2), 4096) << "another tag, another scratch";
  set_handler([](ublk_request& r) {
    return *static_cast<unsigned char*>(r.scratch) == 1 ? static_cast<int>(r.length) : -EINVAL;
  });
  EXPECT_EQ(result_of(request(UBLK_OP_READ, 0, 4096), 1), 4096) << "it is left alone";
}

TEST_P(DeviceQueueTest, ABufferIsTheTagsOwnUnlessAWriteWasRefused) {
  open();
  const auto flags_of = [&](ublk_op op, uint64_t offset) {
    result_of(request(op, offset, 4096));
    return seen().back().flags & UBLK_REQUEST_TAG_BUFFER;
  };
  EXPECT_NE(flags_of(UBLK_OP_READ, 0), 0u);
  EXPECT_NE(flags_of(UBLK_OP_WRITE, 0), 0u);
  EXPECT_EQ(result_of(request(UBLK_OP_WRITE, kSectors * abi::kSectorSize, 4096)), -EIO);
  EXPECT_EQ(flags_of(UBLK_OP_READ, 0), 0u) << "the refused write's data are in it";
  EXPECT_NE(flags_of(UBLK_OP_READ, 0), 0u);
}

// ------------------------------------------------------------------- holding --

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

TEST_P(DeviceQueueTest, RequestsThatWaitForAWorkerAreDropped) {
  if (!on_worker()) GTEST_SKIP() << "none waits for one";
  open();
  std::promise<void> go_on;
  std::shared_future<void> may_go_on = go_on.get_future().share();
  set_handler([may_go_on](ublk_request& r) {
    may_go_on.wait();
    return static_cast<int>(r.length);
  });
  for (uint16_t tag = 0; tag < 4; ++tag) push(tag, request(UBLK_OP_READ, 0, 4096));
  wait_seen(1);
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

// ---------------------------------------------------------------- statistics --

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

// ------------------------------------------------------------------- timeouts --

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

// ---------------------------------------------------------------------- life --

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

// -------------------------------------------------------------------- timers --

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
