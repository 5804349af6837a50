// SPDX-License-Identifier: MIT
//
// Loads a handler and drives it as the runner does, on a real io_uring, without a device:
//
//   test::Device disk("memory", {{"size", "1M"}});
//   EXPECT_EQ(disk.write(4096, "some text"), 9);
//
// Each SQE that the handler puts on the ring can be looked at, and can be given a result in place
// of being run. An instance of the model WORKERS gets each request on a thread of its own, and
// finds neither ring nor timers; it must answer at once. With the other models requests complete on
// the queue's thread.
#ifndef UBLK_TESTS_SUPPORT_HANDLER_HOST_H
#define UBLK_TESTS_SUPPORT_HANDLER_HOST_H

#include <liburing.h>
#include <ublk/handler.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "loaded_handler.h"

namespace test {

using Bytes = std::vector<std::byte>;

// A callback failed: what() is the text for the user, error the positive errno.
struct HandlerError : std::runtime_error {
  HandlerError(int code, const std::string& text) : std::runtime_error(text), error(code) {}
  int error;
};

class Device;

// One queue with a ring of its own. Used by one thread at a time.
class Queue {
 public:
  static constexpr uint16_t kDepth = 8;
  static constexpr size_t kBufferSize = 1 << 20;

  Queue(Device& device, uint32_t index);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Submits a request with the tag's buffer; the tag must be idle. finish() gives its result.
  void start(uint16_t tag, ublk_op op, uint64_t offset, uint32_t length, uint32_t flags = 0);
  int finish(uint16_t tag);
  int run(ublk_op op, uint64_t offset, uint32_t length, uint32_t flags = 0, uint16_t tag = 0);
  void turn();                // waits for an event or a timer, and hands all to the handler
  void cancel(uint16_t tag);  // asks the handler to; the tag must not be idle

  std::span<std::byte> buffer(uint16_t tag);
  void replace_buffer(uint16_t tag);  // by another one, full of 0xee
  ublk_queue* get() { return handle_.get(); }

 private:
  friend struct HostCalls;
  struct Slot;

  io_uring_sqe* get_sqe();
  void submit_sqes();
  void serve(Slot& slot);
  void run_timers();
  std::chrono::nanoseconds until_next_timer() const;

  Device& device_;
  const uint32_t index_;
  std::unique_ptr<ublk_queue> handle_;
  void* data_ = nullptr;
  bool closed_ = false;  // by the handler, after its queue_close()
  io_uring ring_{};
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<io_uring_sqe*> fresh_;        // handed out, not submitted
  std::multimap<uint64_t, int32_t> faked_;  // results in place of real ones, by user_data
  std::map<ublk_timer*, std::chrono::steady_clock::time_point> timers_;
};

const std::string& device_name();  // of all of the process

class Device {
 public:
  // Opens, asks for the geometry, fences, and opens the queues. Throws HandlerError.
  explicit Device(const std::string& handler, const Options& options = {}, uint32_t open_flags = 0,
                  uint32_t nr_queues = 1,
                  std::chrono::milliseconds fence_timeout = std::chrono::seconds(10));
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const ublk_geometry& geometry() const { return geometry_; }
  bool on_workers() const { return geometry_.model == UBLK_MODEL_WORKERS; }
  bool has(uint32_t geometry_flag) const { return geometry_.flags & geometry_flag; }
  Queue& queue(uint32_t index = 0) { return *queues_.at(index); }

  // On queue 0, tag 0. They give the result of the request, or throw HandlerError if it is an
  // error; a short read or write is continued as the runner does.
  Bytes read(uint64_t offset, uint32_t length);
  int write(uint64_t offset, std::span<const std::byte> data, uint32_t flags = 0);
  int write(uint64_t offset, const std::string& text, uint32_t flags = 0);
  void flush();
  void discard(uint64_t offset, uint32_t length);
  void write_zeroes(uint64_t offset, uint32_t length, uint32_t flags = 0);

  // Called with each SQE before it is submitted; a value becomes the result in its place.
  std::function<std::optional<int>(const io_uring_sqe&)> on_sqe;
  // "level text"; level is UBLK_LOG_*. To be read while no request is in flight.
  std::vector<std::string> log;
  std::string trouble;  // likewise; "": none
  std::atomic<unsigned> wrong_completions = 0;
  std::atomic<uint64_t> size = 0;  // bytes, since the handler has told of a change; 0: it has not

 private:
  friend class Queue;
  friend struct HostCalls;
  void check(int result);
  void close();

  LoadedHandler library_;
  std::unique_ptr<ublk_device> handle_;
  std::mutex log_mutex_;
  std::string error_text_;
  void* instance_ = nullptr;
  ublk_geometry geometry_{};
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_HANDLER_HOST_H
