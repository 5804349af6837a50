// SPDX-License-Identifier: MIT
// One thread of the program that serves all queues of a device on one ring.
#ifndef UBLK_EXAMPLES_SERVING_H
#define UBLK_EXAMPLES_SERVING_H

#include <ublk/device.h>
#include <ublk/ring.h>

#include <cstdio>
#include <exception>
#include <future>
#include <thread>

#include "common.h"

// Returns from the constructor once all tags are with the kernel, so that the device can be
// started; throws what went wrong. The thread ends when the device has been stopped, so stop it
// before this is destroyed.
class ServingThread {
 public:
  ServingThread(const ublk::Device& device, ublk::Backend& backend)
      : thread_([&] {
          try {
            serve(device, backend);
          } catch (...) {
            attached_.set_exception(std::current_exception());
          }
        }) {
    attached_.get_future().get();
  }

 private:
  void serve(const ublk::Device& device, ublk::Backend& backend) {
    io_uring uring;
    const unsigned file_slots = ublk::Ring::init(&uring, 4096);
    {
      ublk::Ring ring(&uring, file_slots);
      for (uint16_t queue = 0; queue < device.info().nr_hw_queues; ++queue)
        ring.attach(device.node(), queue, backend);
      attached_.set_value();
      while (ring.nr_queues() != 0) ring.run_once();
    }
    io_uring_queue_exit(&uring);
  }

  std::promise<void> attached_;
  std::jthread thread_;
};

// Starts the device, prints its path, and stops it when a signal comes.
inline void serve_until_signal(ublk::Device& device, ublk::Backend& backend,
                               const StopSignals& signals) {
  const ServingThread serving(device, backend);
  try {
    device.start();
    std::printf("%s\n", device.block_path().c_str());
    std::fflush(stdout);
    signals.wait();
  } catch (...) {
    device.stop();  // or the serving thread would never end
    throw;
  }
  device.stop();
}

#endif  // UBLK_EXAMPLES_SERVING_H
