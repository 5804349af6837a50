// SPDX-License-Identifier: MIT
#include "host.h"

#include <glib.h>

#include <algorithm>
#include <cstdarg>
#include <memory>
#include <string>
#include <utility>

#include "device_queue.h"
#include "handler_instance.h"
#include "log.h"
#include "ring_sqe.h"

namespace ublk_runner {

namespace {

thread_local std::string error_text;

HandlerInstance& instance_of(ublk_device* device) { return *static_cast<HandlerInstance*>(device); }
DeviceQueue& queue_of(ublk_queue* queue) { return *static_cast<DeviceQueue*>(queue); }
const DeviceQueue& queue_of(const ublk_queue* queue) {
  return *static_cast<const DeviceQueue*>(queue);
}

using Text = std::unique_ptr<char, decltype(&g_free)>;

LogLevel log_level(uint32_t level) {
  switch (level) {
    case UBLK_LOG_ERROR:
      return LogLevel::kError;
    case UBLK_LOG_WARNING:
      return LogLevel::kWarning;
    case UBLK_LOG_INFO:
      return LogLevel::kInfo;
    default:
      return LogLevel::kDebug;
  }
}

__attribute__((format(printf, 3, 4))) void host_log(ublk_device* device, uint32_t level,
                                                    const char* format, ...) {
  if (!log_enabled(log_level(level))) return;
  va_list args;
  va_start(args, format);
  const Text text(g_strdup_vprintf(format, args), g_free);
  va_end(args);
  const HandlerInstance& instance = instance_of(device);
  log(log_level(level), instance.device_name(), "%s: %s", instance.handler_name(), text.get());
}

__attribute__((format(printf, 2, 3))) void host_set_error(ublk_device*, const char* format, ...) {
  va_list args;
  va_start(args, format);
  const Text text(g_strdup_vprintf(format, args), g_free);
  va_end(args);
  error_text = text.get();
}

__attribute__((format(printf, 2, 3))) void host_set_trouble(ublk_device* device, const char* format,
                                                            ...) {
  va_list args;
  va_start(args, format);
  const Text text(g_strdup_vprintf(format, args), g_free);
  va_end(args);
  instance_of(device).set_trouble(text.get());
}

int host_complete(uint64_t request_id, int32_t result) {
  return DeviceQueue::complete(request_id, result);
}

io_uring_sqe* host_get_sqe(ublk_queue* queue) { return &get_sqe(queue_of(queue).thread().ring()); }

void host_reserve_sqes(ublk_queue* queue, uint32_t count) {
  constexpr uint32_t kMost = 16;
  queue_of(queue).thread().ring().reserve_sqes(std::min(count, kMost));
}

void host_set_timer(ublk_queue* queue, ublk_timer* timer, uint64_t nanoseconds) {
  queue_of(queue).thread().timers().set(*timer, nanoseconds, queue);
}

void host_cancel_timer(ublk_queue* queue, ublk_timer* timer) {
  queue_of(queue).thread().timers().cancel(*timer);
}

// The size itself is asked for again, by geometry(), so that one place checks it.
void host_size_changed(ublk_device* device, uint64_t) { instance_of(device).size_changed(); }

int32_t host_read_data(const ublk_request* request, void* to, uint32_t length, uint32_t offset) {
  return DeviceQueue::read_data(*request, to, length, offset);
}
int32_t host_write_data(const ublk_request* request, const void* from, uint32_t length,
                        uint32_t offset) {
  return DeviceQueue::write_data(*request, from, length, offset);
}
int32_t host_move_on_ring(ublk_queue* queue, const ublk_request* request, void* memory,
                          uint32_t length, uint32_t offset, ublk_event* event) {
  return queue_of(queue).move_on_ring(*request, memory, length, offset, *event);
}

// Not at once: the caller is code of the handler, which may be unloaded when its queues are closed.
void host_queue_closed(ublk_queue* queue) {
  DeviceQueue& closed = queue_of(queue);
  closed.thread().post([&closed] { closed.handler_closed(); });
}
uint32_t host_queue_index(const ublk_queue* queue) { return queue_of(queue).index(); }
void* host_queue_data(const ublk_queue* queue) { return queue_of(queue).handler_data(); }

constexpr ublk_host kHost = {
    .abi_version = UBLK_HANDLER_ABI_VERSION,
    .struct_size = sizeof(ublk_host),
    .log = host_log,
    .set_error = host_set_error,
    .complete = host_complete,
    .get_sqe = host_get_sqe,
    .reserve_sqes = host_reserve_sqes,
    .set_timer = host_set_timer,
    .cancel_timer = host_cancel_timer,
    .size_changed = host_size_changed,
    .queue_closed = host_queue_closed,
    .read_data = host_read_data,
    .write_data = host_write_data,
    .move_on_ring = host_move_on_ring,
    .queue_index = host_queue_index,
    .queue_data = host_queue_data,
    .set_trouble = host_set_trouble,
};

}  // namespace

const ublk_host& handler_host() { return kHost; }
void clear_callback_error() { error_text.clear(); }

std::runtime_error callback_error(const char* callback, int result) {
  std::string text = std::exchange(error_text, {});
  if (text.empty())
    text = result < 0 && result >= -4095 ? g_strerror(-result)
                                         : "the handler returned " + std::to_string(result);
  return std::runtime_error(std::string(callback) + ": " + text);
}

}  // namespace ublk_runner
