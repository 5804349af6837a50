// SPDX-License-Identifier: MIT
//
// A whole block device against the library alone: reads give zeroes, writes are forgotten.
//
//   example_null [SIZE_IN_MIB [QUEUES [DEPTH]]]
//
// Prints the device's path when it can be used, and removes the device at SIGINT or SIGTERM.
#include <pthread.h>
#include <ublk/control.h>
#include <ublk/device.h>
#include <ublk/error.h>
#include <ublk/ring.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

namespace {

// Serves any number of queues on one ring.
class NullBackend final : public ublk::Backend {
 public:
  void submit(ublk::Request request) override {
    switch (request.op()) {
      case ublk::Operation::kRead:
        // The tag's buffer holds what its last write brought.
        std::memset(request.buffer(), 0, request.length());
        [[fallthrough]];
      case ublk::Operation::kWrite:
        request.complete(static_cast<int>(request.length()));
        break;
      case ublk::Operation::kDiscard:
      case ublk::Operation::kWriteZeroes:
      case ublk::Operation::kFlush:
        request.complete(0);
        break;
      default:
        request.complete(-EOPNOTSUPP);
    }
  }
};

ublk::DeviceSpec null_device(uint64_t bytes, unsigned queues, unsigned depth) {
  constexpr uint32_t kMaxIoBytes = 512 << 10;
  ublk::DeviceSpec spec;
  spec.info.nr_hw_queues = static_cast<uint16_t>(queues);
  spec.info.queue_depth = static_cast<uint16_t>(depth);
  spec.info.max_io_buf_bytes = kMaxIoBytes;
  spec.info.dev_id = ublk::abi::kAnyDeviceId;
  spec.params.types = ublk::abi::kParamBasic | ublk::abi::kParamDiscard;
  spec.params.basic.logical_bs_shift = 9;
  spec.params.basic.physical_bs_shift = 12;
  spec.params.basic.io_min_shift = 12;
  spec.params.basic.max_sectors = kMaxIoBytes / ublk::abi::kSectorSize;
  spec.params.basic.dev_sectors = bytes / ublk::abi::kSectorSize;
  spec.params.discard.discard_granularity = 4096;
  spec.params.discard.max_discard_sectors = 1 << 20;
  spec.params.discard.max_write_zeroes_sectors = 1 << 20;
  spec.params.discard.max_discard_segments = 1;
  return spec;
}

// The thread that serves: it attaches all queues of the device to one ring, and is done when the
// kernel has given all of them back.
void serve(const ublk::Device& device, std::promise<void>& attached) {
  NullBackend backend;
  io_uring uring;
  const unsigned file_slots = ublk::Ring::init(&uring, 4096);
  {
    ublk::Ring ring(&uring, file_slots);
    for (uint16_t queue = 0; queue < device.info().nr_hw_queues; ++queue)
      ring.attach(device.node(), queue, backend);
    attached.set_value();
    while (ring.nr_queues() != 0) ring.run_once();
  }
  io_uring_queue_exit(&uring);
}

void run(uint64_t bytes, unsigned queues, unsigned depth) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  ublk::Control control;
  ublk::Device device(control, null_device(bytes, queues, depth));
  std::promise<void> attached;
  std::jthread server([&] {
    try {
      serve(device, attached);
    } catch (const std::exception&) {
      attached.set_exception(std::current_exception());
    }
  });
  try {
    attached.get_future().get();
    device.start();
    std::printf("%s\n", device.block_path().c_str());
    std::fflush(stdout);
    int signal = 0;
    sigwait(&signals, &signal);
  } catch (...) {
    device.stop();  // or the server would never end
    throw;
  }
  device.stop();
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t mib = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1024;
  const unsigned queues = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  const unsigned depth = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 128;
  try {
    run(mib << 20, queues, depth);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_null: %s\n", e.what());
    return 1;
  }
  return 0;
}
