// SPDX-License-Identifier: MIT
//
// What the sources of handler_host.h share.
#ifndef UBLK_TESTS_SUPPORT_HANDLER_HOST_PARTS_H
#define UBLK_TESTS_SUPPORT_HANDLER_HOST_PARTS_H

#include <sys/mman.h>
#include <ublk/handler.h>

#include <cstddef>
#include <cstdlib>
#include <thread>

#include "handler_host.h"

struct ublk_device {
  test::Device* device;
};
struct ublk_queue {
  test::Queue* queue;
};

namespace test {

std::byte* map_buffer();  // of Queue::kBufferSize

struct Queue::Slot {
  enum class State { kIdle, kWaiting, kDone };
  ublk_request request{};
  State state = State::kIdle;
  int result = 0;
  Queue* queue = nullptr;
  std::byte* buffer = map_buffer();
  void* scratch = nullptr;
  bool fresh = true;   // the buffer is another one than at the last request
  std::thread worker;  // WORKERS: that serves the request

  Slot() = default;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    if (worker.joinable()) worker.join();
    munmap(buffer, kBufferSize);
    std::free(scratch);
  }
};

const ublk_host& host_calls();  // the functions that a handler may call

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_HANDLER_HOST_PARTS_H
