// SPDX-License-Identifier: MIT
// The functions of ublk_host.
#include <liburing.h>
#include <ublk/handler.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "handler_host_parts.h"

namespace test {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

struct HostCalls {
  static std::string format_text(const char* format, va_list arguments) {
    std::string text(1024, '\0');
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): the caller has started it
    const int n = vsnprintf(text.data(), text.size(), format, arguments);
    text.resize(std::min<size_t>(static_cast<size_t>(n), text.size() - 1));
    return text;
  }

  __attribute__((format(printf, 3, 4))) static void log(ublk_device* device, uint32_t level,
                                                        const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    {
      const std::lock_guard lock(device->device->log_mutex_);
      device->device->log.push_back(std::to_string(level) + ' ' + format_text(format, arguments));
    }
    va_end(arguments);
  }

  __attribute__((format(printf, 2, 3))) static void set_error(ublk_device* device,
                                                              const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    device->device->error_text_ = format_text(format, arguments);
    va_end(arguments);
  }

  static int complete(uint64_t id, int32_t result) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the id is the host's to choose
    auto& slot = *reinterpret_cast<Queue::Slot*>(static_cast<uintptr_t>(id));
    if (slot.state != Queue::Slot::State::kWaiting) {
      ++slot.queue->device_.wrong_completions;
      return -EALREADY;
    }
    slot.result = result;
    slot.state = Queue::Slot::State::kDone;
    return 0;
  }

  // The queue, for what belongs to its thread. What is thrown here is the request's error.
  static Queue& on_its_thread(ublk_queue* queue) {
    if (queue->queue->device_.on_workers())
      throw std::logic_error("a worker uses the ring or a timer");
    return *queue->queue;
  }

  static io_uring_sqe* get_sqe(ublk_queue* queue) { return on_its_thread(queue).get_sqe(); }

  static void reserve_sqes(ublk_queue* queue, uint32_t count) {
    Queue& q = on_its_thread(queue);
    if (io_uring_sq_space_left(&q.ring_) < count) q.submit_sqes();
  }

  static void set_timer(ublk_queue* queue, ublk_timer* timer, uint64_t delay) {
    on_its_thread(queue).timers_[timer] = steady_clock::now() + nanoseconds(delay);
  }

  static void cancel_timer(ublk_queue* queue, ublk_timer* timer) {
    on_its_thread(queue).timers_.erase(timer);
  }

  static void size_changed(ublk_device* device, uint64_t size) { device->device->size = size; }
  __attribute__((format(printf, 2, 3))) static void set_trouble(ublk_device* device,
                                                                const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    {
      const std::lock_guard lock(device->device->log_mutex_);
      device->device->trouble = format_text(format, arguments);
    }
    va_end(arguments);
  }
  static void queue_closed(ublk_queue* queue) { on_its_thread(queue).closed_ = true; }
  // Every request has a buffer here.
  static int32_t read_data(const ublk_request* request, void* to, uint32_t length,
                           uint32_t offset) {
    std::memcpy(to, static_cast<const std::byte*>(request->buffer) + offset, length);
    return static_cast<int32_t>(length);
  }
  static int32_t write_data(const ublk_request* request, const void* from, uint32_t length,
                            uint32_t offset) {
    std::memcpy(static_cast<std::byte*>(request->buffer) + offset, from, length);
    return static_cast<int32_t>(length);
  }
  static int32_t move_on_ring(ublk_queue*, const ublk_request* request, void* memory,
                              uint32_t length, uint32_t offset, ublk_event*) {
    return request->op == UBLK_OP_WRITE ? read_data(request, memory, length, offset)
                                        : write_data(request, memory, length, offset);
  }
  static uint32_t queue_index(const ublk_queue* queue) { return queue->queue->index_; }
  static void* queue_data(const ublk_queue* queue) { return queue->queue->data_; }

  static const ublk_host& host() {
    static constexpr ublk_host kHost = {
        .abi_version = UBLK_HANDLER_ABI_VERSION,
        .struct_size = sizeof(ublk_host),
        .log = log,
        .set_error = set_error,
        .complete = complete,
        .get_sqe = get_sqe,
        .reserve_sqes = reserve_sqes,
        .set_timer = set_timer,
        .cancel_timer = cancel_timer,
        .size_changed = size_changed,
        .queue_closed = queue_closed,
        .read_data = read_data,
        .write_data = write_data,
        .move_on_ring = move_on_ring,
        .queue_index = queue_index,
        .queue_data = queue_data,
        .set_trouble = set_trouble,
    };
    return kHost;
  }
};

const ublk_host& host_calls() { return HostCalls::host(); }

}  // namespace test
