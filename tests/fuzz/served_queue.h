// SPDX-License-Identifier: MIT
// A DeviceQueue between a kernel and a handler, both of which a fuzzer plays.
#ifndef UBLK_TESTS_FUZZ_SERVED_QUEUE_H
#define UBLK_TESTS_FUZZ_SERVED_QUEUE_H

#include <device_queue.h>
#include <log.h>
#include <ublk/device.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <utility>

#include "scripted_driver.h"

namespace fuzz {

namespace abi = ublk::abi;

// Served on a thread of its own until the process ends.
class ServedQueue {
 public:
  static constexpr uint16_t kDepth = 4;
  static constexpr uint32_t kMaxSectors = (64 << 10) / abi::kSectorSize;
  static constexpr uint64_t kSectors = 1 << 20;
  static constexpr uint32_t kBlockSectors = 8;

  using Submit = std::function<int(ublk_request&)>;

  ServedQueue() {
    ublk_runner::set_log_level(ublk_runner::LogLevel::kError);
    table_.name = "fuzzer";
    table_.submit = [](void* instance, ublk_queue*, ublk_request* request) {
      return static_cast<ServedQueue*>(instance)->submit_(*request);
    };
    ublk_runner::DeviceQueueEvents events;
    events.failed = [](uint16_t, int) {};
    events.released = [] {};
    events.closed = [] {};
    const ublk_runner::RequestRules rules = {.sectors = kSectors,
                                             .block_sectors = kBlockSectors,
                                             .max_sectors = kMaxSectors,
                                             .operations = 0x2f};
    queue_ = std::make_shared<ublk_runner::DeviceQueue>(
        ublk_runner::DeviceQueue::Handler{table_, this, "fuzz"}, thread_, 0, kDepth, rules, events);
    on_thread([this] {
      queue_->open(ublk::DeviceNode::open(driver_, driver_.info()), std::make_shared<int>());
    });
  }

  // Between runs.
  void set_handler(Submit submit) { submit_ = std::move(submit); }

  // What is committed for the request.
  int run(uint16_t tag, const abi::IoDesc& request) {
    on_thread([&] { driver_.push(thread_.ring(), tag, request); });
    return driver_.committed(tag);
  }
  // Whether something more than that was committed. The thread has ended its turn.
  bool commits_more(uint16_t tag) {
    on_thread([] {});
    return driver_.has_committed(tag);
  }

 private:
  template <class F>
  void on_thread(F function) {
    std::promise<void> done;
    thread_.post([&] {
      function();
      done.set_value();
    });
    done.get_future().get();
  }

  ublk_handler table_{};
  Submit submit_;
  ublk_test::ScriptedDriver driver_{kDepth};
  const std::shared_ptr<ublk_runner::SharedPools> pools_ =
      ublk_runner::SharedPools::make(ublk_runner::MainContext(), 64 << 20);
  ublk_runner::QueueThread thread_{ublk_runner::MainContext(), pools_, 0,
                                   std::chrono::microseconds(0)};
  std::shared_ptr<ublk_runner::DeviceQueue> queue_;
};

// A result that the kernel can take for a request that has one.
inline bool is_result(const abi::IoDesc& request, int result) {
  if (result < 0) return result >= -4095;
  const uint32_t op = request.op_flags & abi::kOpMask;
  const bool has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  return static_cast<uint32_t>(result) == (has_data ? request.nr_sectors * abi::kSectorSize : 0);
}

}  // namespace fuzz

#endif  // UBLK_TESTS_FUZZ_SERVED_QUEUE_H
