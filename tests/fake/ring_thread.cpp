// SPDX-License-Identifier: MIT
#include "ring_thread.h"

#include <exception>
#include <utility>

namespace fake {

namespace abi = ublk::abi;

RingThread::RingThread(unsigned cq_entries, Other other) : other_(std::move(other)) {
  std::promise<void> ready;
  thread_ = std::jthread([&] { serve(cq_entries, ready); });
  ready.get_future().get();
}

RingThread::~RingThread() {
  ring_->post([this] { ending_ = true; });
  end_posted_.set_value();
}

void RingThread::attach(std::shared_ptr<ublk::DeviceNode> node, uint16_t queue,
                        ublk::Backend& backend) {
  call([node = std::move(node), queue, &backend](ublk::Ring& ring) mutable {
    ring.attach(std::move(node), queue, backend);
  });
}

void RingThread::serve(unsigned cq_entries, std::promise<void>& ready) {
  try {
    const unsigned file_slots = ublk::Ring::init(&uring_, cq_entries);
    try {
      ring_ = std::make_unique<ublk::Ring>(&uring_, file_slots);
    } catch (...) {
      io_uring_queue_exit(&uring_);
      throw;
    }
  } catch (...) {
    ready.set_exception(std::current_exception());
    return;
  }
  ublk::Ring& ring = *ring_;
  ready.set_value();
  while (!ending_ || ring.nr_queues() != 0) ring.run_once(other_);
  // The ring must not end while another thread is in post().
  end_posted_.get_future().wait();
  ring_.reset();
  io_uring_queue_exit(&uring_);
}

ublk::DeviceSpec device_spec(uint64_t bytes, uint16_t queues, uint16_t depth, uint32_t attrs,
                             uint64_t flags) {
  constexpr uint32_t kMaxIoBytes = 256 << 10;
  ublk::DeviceSpec spec;
  spec.info.nr_hw_queues = queues;
  spec.info.queue_depth = depth;
  spec.info.max_io_buf_bytes = kMaxIoBytes;
  spec.info.dev_id = abi::kAnyDeviceId;
  spec.info.flags = flags;
  spec.params.types = abi::kParamBasic | abi::kParamDiscard;
  spec.params.basic.attrs = attrs;
  spec.params.basic.logical_bs_shift = 9;
  spec.params.basic.physical_bs_shift = 12;
  spec.params.basic.max_sectors = kMaxIoBytes / abi::kSectorSize;
  spec.params.basic.dev_sectors = bytes / abi::kSectorSize;
  spec.params.discard.discard_granularity = 4096;
  spec.params.discard.max_discard_sectors = 1 << 16;
  spec.params.discard.max_write_zeroes_sectors = 1 << 16;
  spec.params.discard.max_discard_segments = 1;
  return spec;
}

CountedBackend::~CountedBackend() {
  std::unique_lock lock(mutex_);
  stopped_.wait(lock, [this] { return queues_ == 0; });
}

void CountedBackend::attached() {
  const std::lock_guard lock(mutex_);
  ++queues_;
}

void CountedBackend::stopped(ublk::Queue& queue) {
  backend_.stopped(queue);
  const std::lock_guard lock(mutex_);
  --queues_;
  stopped_.notify_all();
}

ServedDevice::ServedDevice(ublk::Control& control, const ublk::DeviceSpec& spec,
                           ublk::Backend& backend, const std::vector<RingThread*>& threads)
    : backend_(backend), device_(control, spec) {
  for (uint16_t queue = 0; queue < device_.info().nr_hw_queues; ++queue) {
    threads[queue % threads.size()]->attach(device_.node(), queue, backend_);
    backend_.attached();
  }
  device_.start();
}

}  // namespace fake
