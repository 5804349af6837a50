// SPDX-License-Identifier: MIT
// A device on the real driver, served by a thread of the test with any Backend.
#ifndef UBLK_TESTS_VM_SERVED_DEVICE_H
#define UBLK_TESTS_VM_SERVED_DEVICE_H

#include <fcntl.h>
#include <ublk/control.h>
#include <ublk/device.h>
#include <ublk/ring.h>

#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

inline ublk::DeviceSpec device_spec(uint64_t bytes, uint16_t queues = 1, uint16_t depth = 32,
                                    uint32_t attrs = 0) {
  constexpr uint32_t kMaxIoBytes = 256 << 10;
  ublk::DeviceSpec spec;
  spec.info.nr_hw_queues = queues;
  spec.info.queue_depth = depth;
  spec.info.max_io_buf_bytes = kMaxIoBytes;
  spec.info.dev_id = ublk::abi::kAnyDeviceId;
  spec.params.types = ublk::abi::kParamBasic | ublk::abi::kParamDiscard;
  spec.params.basic.attrs = attrs;
  spec.params.basic.logical_bs_shift = 9;
  spec.params.basic.physical_bs_shift = 12;
  spec.params.basic.max_sectors = kMaxIoBytes / ublk::abi::kSectorSize;
  spec.params.basic.dev_sectors = bytes / ublk::abi::kSectorSize;
  spec.params.discard.discard_granularity = 4096;
  spec.params.discard.max_discard_sectors = 1 << 16;
  spec.params.discard.max_write_zeroes_sectors = 1 << 16;
  spec.params.discard.max_discard_segments = 1;
  return spec;
}

// Serves queues of any devices on one thread and one ring, until all of them have stopped. Calls
// `each_turn` before each turn of the loop, and `other` for completions that are not the library's.
class ServingThread {
 public:
  using Other = std::function<void(const io_uring_cqe&)>;

  ServingThread(
      std::vector<std::shared_ptr<ublk::DeviceNode>> nodes, ublk::Backend& backend,
      unsigned cq_entries = 8192, std::function<void(ublk::Ring&)> each_turn = [](ublk::Ring&) {},
      Other other = [](const io_uring_cqe&) {})
      : thread_([this, nodes = std::move(nodes), &backend, cq_entries,
                 each_turn = std::move(each_turn), other = std::move(other)]() mutable {
          try {
            io_uring uring;
            const unsigned file_slots = ublk::Ring::init(&uring, cq_entries);
            {
              ublk::Ring ring(&uring, file_slots);
              for (auto& node : nodes)
                for (uint16_t q = 0; q < node->info().nr_hw_queues; ++q)
                  ring.attach(node, q, backend);
              nodes.clear();
              attached_.set_value();
              while (ring.nr_queues() != 0) {
                each_turn(ring);
                ring.run_once(other);
              }
            }
            io_uring_queue_exit(&uring);
          } catch (...) {
            attached_.set_exception(std::current_exception());
          }
        }) {
    attached_.get_future().get();
  }

 private:
  std::promise<void> attached_;
  std::jthread thread_;
};

// A started device with its thread. Stopped and deleted by the destructor.
class ServedDevice {
 public:
  ServedDevice(
      ublk::Control& control, const ublk::DeviceSpec& spec, ublk::Backend& backend,
      ServingThread::Other other = [](const io_uring_cqe&) {})
      : device_(control, spec),
        thread_(std::make_unique<ServingThread>(
            std::vector<std::shared_ptr<ublk::DeviceNode>>{device_.node()}, backend, 8192,
            [](ublk::Ring&) {}, std::move(other))) {
    try {
      device_.start();
    } catch (...) {
      device_.stop();
      throw;
    }
  }
  ~ServedDevice() {
    device_.stop();
    thread_.reset();
  }

  ublk::Device& device() { return device_; }
  std::string path() const { return device_.block_path(); }
  ublk::UniqueFd open(int flags) const {
    return ublk::UniqueFd(::open(path().c_str(), flags | O_CLOEXEC));
  }

 private:
  ublk::Device device_;
  std::unique_ptr<ServingThread> thread_;
};

#endif  // UBLK_TESTS_VM_SERVED_DEVICE_H
