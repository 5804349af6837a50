// SPDX-License-Identifier: MIT
//
// One queue of a device between the library and the handler: the path of every request.
#ifndef UBLK_RUNNER_DEVICE_QUEUE_H
#define UBLK_RUNNER_DEVICE_QUEUE_H

#include <ublk/handler.h>
#include <ublk/queue.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "anonymous_memory.h"
#include "params_from_geometry.h"
#include "queue_thread.h"
#include "rate_limit.h"

// What handlers know as their queue.
struct ublk_queue {};

namespace ublk_runner {

// What a queue tells its device. Called on the queue's thread.
struct DeviceQueueEvents {
  // A command for a tag has failed; the queue does not serve that tag any more.
  std::function<void(uint16_t tag, int error)> failed;
  // After open(), whatever became of it: first the kernel, then the handler will not use the queue
  // again. The handler's end does not come if it has not answered all requests, see abandon().
  std::function<void()> released;
  std::function<void()> closed;
};

// Each request is checked against the rules, given to the handler's submit(), and completed with
// what the handler answers, at once or later. A short read or write goes to the handler again for
// the rest, so that the kernel never sees one. Nothing here is allocated, locked or asked of the
// kernel for a request, apart from the rest of a short one that another thread has completed.
//
// The life of a queue, on its thread:
//
//   open() -> serving -> (STOP_DEV) released by the kernel -> closed by the handler
//
// Threads: the constructor runs anywhere, complete() on any thread, everything else on the queue's.
//
// A handler that is wrong may complete a request again at any time until its instance is closed,
// and then gets an error: so the queue must live until then, see HandlerInstance::keep().
class DeviceQueue final : public ublk::Backend, public ublk_queue {
 public:
  // The open instance of a handler, which outlives the queue.
  struct Handler {
    const ublk_handler& table;
    void* instance;
    std::string device;  // its name, for the log
  };

  // Throws std::bad_alloc. All memory is there from now on, but costs nothing before it is used.
  DeviceQueue(Handler handler, QueueThread& thread, uint16_t index, uint16_t depth,
              const RequestRules& rules, DeviceQueueEvents events);
  ~DeviceQueue() override;

  // Opens the handler's queue and hands all tags to the kernel. `alive`, which owns the handler and
  // this queue, is kept until closed(). Throws what the handler or the library says; closed() comes
  // all the same.
  void open(std::shared_ptr<ublk::DeviceNode> node, std::shared_ptr<void> alive);

  // How arriving requests are treated. hold() keeps them, in order, without dispatching any; what
  // was dispatched goes on. release() dispatches them. refuse() fails those that are held and those
  // that still come with EIO.
  void hold();
  void release();
  void refuse();
  // Fails the requests that the handler has not answered, with EIO: the kernel waits for them when
  // the device is to go. The handler may go on with them, and gets an error for its answers; their
  // buffers stay. Nothing may be dispatched after it. Returns how many there were.
  unsigned abandon();
  // Calls `drained` once no dispatched request is with the handler any more.
  void when_drained(std::function<void()> drained);
  unsigned dispatched() const;  // requests that the handler has

  void set_rules(const RequestRules& rules) { rules_ = rules; }

  // ublk_host.complete.
  static int complete(uint64_t request_id, int32_t result) noexcept;
  // ublk_host.queue_closed.
  void handler_closed();

  uint16_t index() const { return index_; }
  void* handler_data() const { return handler_data_; }
  QueueThread& thread() const { return thread_; }

  void submit(ublk::Request request) override;
  void failed(ublk::Queue& queue, uint16_t tag, int error) override;
  void stopped(ublk::Queue& queue) override;
  std::byte* alloc_io_buffer(ublk::Queue& queue, uint16_t tag, size_t bytes) override;

 private:
  enum class Intake : uint8_t { kOpen, kHeld, kRefused };
  enum class Life : uint8_t { kNew, kServing, kAbandoned, kClosing, kClosed };
  struct Tag;

  void set_aside(Tag& tag);
  template <class Visit>
  void take_held(Visit visit);
  void dispatch(Tag& tag);
  int check(uint8_t op, uint64_t sector, uint64_t sectors) const;
  void serve(Tag& tag);
  void serve_rest(Tag& tag);
  bool settle(Tag& tag, int result);
  void take_rest(Tag& tag);
  void close_handler_queue();
  void complain(const char* what, const Tag& tag, int result);

  static uint16_t next_submission(Tag& tag);
  static bool claim(Tag& tag, uint16_t submission);

  // Read for each request.
  const size_t scratch_stride_;
  const AnonymousMemory memory_;  // the tags, then their scratch
  Tag* const tags_;
  std::byte* const scratch_;
  int (*submit_)(void*, ublk_queue*, ublk_request*);
  void* instance_;
  RequestRules rules_;
  Intake intake_ = Intake::kOpen;

  Life life_ = Life::kNew;
  const uint16_t index_;
  const uint16_t depth_;
  const Handler handler_;
  QueueThread& thread_;
  const DeviceQueueEvents events_;
  // The tags' data. Kept until the object goes, for a handler that has not answered.
  AnonymousMemory buffers_;
  void* handler_data_ = nullptr;
  ublk::Queue* queue_ = nullptr;  // while the kernel has it
  Tag* first_held_ = nullptr;
  Tag** last_held_ = &first_held_;
  unsigned nr_held_ = 0;
  RateLimit complaints_;
  std::shared_ptr<void> alive_;  // from open() to closed()
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_QUEUE_H
