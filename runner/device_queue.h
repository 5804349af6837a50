// SPDX-License-Identifier: MIT
//
// One queue of a device between the library and the handler: the path of every request.
#ifndef UBLK_RUNNER_DEVICE_QUEUE_H
#define UBLK_RUNNER_DEVICE_QUEUE_H

#include <ublk/buffer_pool.h>
#include <ublk/handler.h>
#include <ublk/queue.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "anonymous_memory.h"
#include "params_from_geometry.h"
#include "queue_statistics.h"
#include "queue_thread.h"
#include "rate_limit.h"
#include "worker_pool.h"

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

// Each request is checked against the rules, given to the handler's submit(), here or on a worker,
// and completed with what the handler answers, at once or later. A short read or write goes to the
// handler again for the rest, so that the kernel never sees one. Nothing here is allocated, locked
// or asked of the kernel for a request, apart from the rest of a short one that another thread has
// completed, and what the pools say of themselves.
//
// The data of a read or write, by the device's buffer mode:
//
//   copy       the tag's buffer
//   get-data   a buffer of the pool: for a read before submit(), for a write when the kernel asks
//   user-copy  a buffer of the pool, to which the data of a write is copied before submit() and
//              from which that of a read is copied after it: by the ring for who works on the
//              queue's thread, else by the worker or whoever completes. No buffer and no copy for a
//              handler that moves data itself, nor for data that the kernel has registered in the
//              ring for us (zero copy)
//
// The life of a queue, on its thread:
//
//   open() -> serving -> (STOP_DEV) released by the kernel -> closed by the handler
//
// With an io_timeout a request can be failed while the handler has it; what then stays the
// handler's keeps the queue from being drained and closed like a request that is not answered.
//
// Threads: the constructor runs anywhere; complete(), read_data(), write_data() and drop() on any
// thread; everything else on the queue's.
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
    // The device's share of the workers; nullptr: submit() is called on the queue's thread.
    WorkerPool::Client* workers = nullptr;
    // The device's share of the buffer pool; nullptr: its mode needs none.
    std::shared_ptr<ublk::BufferPool::Device> buffers = nullptr;
    bool zero_copy = false;  // can serve data in the ring's buffer table
    // Where the queue counts, kept by whoever wants to know; nullptr: a new one.
    std::shared_ptr<QueueStatistics> statistics = nullptr;
    // How long it may take for a request, and a request wait for a worker or a buffer; 0: any time.
    std::chrono::nanoseconds io_timeout{0};
    bool fails_late_requests = false;  // those that take longer; else they are logged alone
  };

  // Throws std::bad_alloc. All memory is there from now on, but costs nothing before it is used.
  DeviceQueue(Handler handler, QueueThread& thread, uint16_t index, uint16_t depth,
              const RequestRules& rules, DeviceQueueEvents events);
  ~DeviceQueue() override;

  // Opens the handler's queue and hands all tags to the kernel. `alive`, which owns the handler and
  // this queue, is kept until closed(). Throws what the handler or the library says; closed() comes
  // all the same.
  void open(std::shared_ptr<ublk::DeviceNode> node, std::shared_ptr<void> alive);

  // The same for a queue that the kernel and `predecessor`, of the same thread, have already: holds
  // it, with the requests that it holds, and has its handler's queue closed. The predecessor must
  // have nothing dispatched. Throws what the handler or the library says: then nothing has changed
  // for the predecessor, and closed() comes here.
  void take_over(DeviceQueue& predecessor, std::shared_ptr<void> alive);

  // How arriving requests are treated; hold() may come before open(). hold() keeps them, in order,
  // without dispatching any; what was dispatched goes on. release() dispatches them. refuse() fails
  // those that are held and those that still come with EIO.
  void hold();
  void release();
  void refuse();
  // Asks the handler to cancel the requests that it has not answered. After refuse().
  void cancel();
  // Fails the requests that the handler has not answered, with EIO: the kernel waits for them when
  // the device is to go. The handler may go on with them, and gets an error for its answers; their
  // buffers stay. After refuse(). Those that wait for a worker are not among them: drop() does
  // that. Returns how many there were.
  unsigned abandon();
  // Fails a request that WorkerPool::Client::drop_queued() has returned.
  static void drop(WorkerPool::Item& item);
  // Calls `drained` once no dispatched request is with the handler any more.
  void when_drained(std::function<void()> drained);
  unsigned dispatched() const;  // requests that the handler has
  // Those of the kernel's requests that it has not answered, as ascending numbers, each the
  // device's only one: a number is used again after 65535 more submissions of its tag.
  std::vector<uint64_t> unanswered() const;

  void set_rules(const RequestRules& rules) { rules_ = rules; }
  // Whether requests are counted and timed from now on. Off at first.
  void use_statistics(bool on);

  // ublk_host.complete.
  static int complete(uint64_t request_id, int32_t result) noexcept;
  // ublk_host.read_data, write_data and move_on_ring.
  static int32_t read_data(const ublk_request& request, void* to, uint32_t length,
                           uint32_t offset) noexcept;
  static int32_t write_data(const ublk_request& request, const void* from, uint32_t length,
                            uint32_t offset) noexcept;
  int32_t move_on_ring(const ublk_request& request, void* memory, uint32_t length, uint32_t offset,
                       ublk_event& event);
  // ublk_host.queue_closed.
  void handler_closed();

  uint16_t index() const { return index_; }
  void* handler_data() const { return handler_data_; }
  QueueThread& thread() const { return thread_; }

  void submit(ublk::Request request) override;
  void failed(ublk::Queue& queue, uint16_t tag, int error) override;
  void stopped(ublk::Queue& queue) override;
  void need_buffer(ublk::Request request) override;
  void buffer_done(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override;
  std::byte* alloc_io_buffer(ublk::Queue& queue, uint16_t tag, size_t bytes) override;
  void free_io_buffer(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override;
  void committing(ublk::Queue& queue, uint16_t tag, int result) override;

 private:
  enum class Intake : uint8_t { kOpen, kHeld, kRefused };
  enum class Life : uint8_t { kNew, kServing, kAbandoned, kClosing, kClosed };
  struct Tag;
  struct StandIn;
  class BufferWaiter;
  class Timeouts;
  class DataMove;

  void open_handler_queue();
  void use_node(const std::shared_ptr<ublk::DeviceNode>& node);
  void submit_slowly(Tag& tag);
  void set_intake(Intake intake);
  bool part_from_buffer(const Tag& tag);
  void set_aside(Tag& tag);
  template <class Visit>
  void take_held(Visit visit);
  void dispatch(Tag& tag);
  int check(uint8_t op, uint64_t sector, uint64_t sectors) const;
  bool find_registered(Tag& tag);
  void ready(Tag& tag);
  void start(Tag& tag);
  void serve(Tag& tag);
  void serve_rest(Tag& tag);
  bool settle(Tag& tag, int result, ublk::CompletionBatch* batch);
  void settle_elsewhere(Tag& tag, int result, ublk::CompletionBatch* batch);
  void take_rest(Tag& tag);
  void close_handler_queue();
  void complain(const char* what, const Tag& tag, int result);

  static void run_on_worker(WorkerPool::Item& item) noexcept;
  static bool end_late(Tag& tag, uint16_t submission);
  static uint16_t next_submission(Tag& tag, std::memory_order order);
  static bool claim(Tag& tag, uint16_t submission);
  Tag& tag_for(uint16_t number) const;
  std::byte* scratch_of(const Tag& tag) const;
  uint16_t number_of(const Tag& tag) const;
  static Tag& tag_of(uint64_t request_id);
  static const Tag* waiting_for(uint64_t request_id);  // nullptr: it is completed

  // device_queue_data.cpp
  BufferWaiter* waiter(uint16_t tag) const;
  void get_buffer(Tag& tag);
  void use_buffer(Tag& tag, std::byte* buffer);
  template <class Visit>
  void take_waiting(Visit visit);
  void fail_waiting();
  void hold_waiting();
  void copy_on_ring(Tag& tag);
  void copied(Tag& tag, int result);
  int copy_here(Tag& tag);
  void give_back_copy(Tag& tag);
  void finish_copied_read(Tag& tag, int result, ublk::CompletionBatch* batch);
  static std::byte* buffer_at(const Tag& tag, uint32_t offset);
  off_t position(const Tag& tag, uint32_t offset) const;

  QueueStatistics* statistics() const { return counting_.load(std::memory_order_acquire); }
  static int submit_counted(void* self, ublk_queue*, ublk_request* request);
  void count(bool on);
  void take_over_statistics(DeviceQueue& predecessor);
  void note_answer(const Tag& tag, QueueStatistics& statistics);

  // Read for each request.
  std::atomic<QueueStatistics*> counting_{nullptr};  // nullptr: statistics are switched off
  const size_t scratch_stride_;
  const AnonymousMemory memory_;  // the tags, then their scratch
  Tag* const tags_;
  std::byte* const scratch_;
  int (*submit_)(void*, ublk_queue*, ublk_request*);  // the handler's, or submit_counted()
  void* instance_;                                    // its first argument
  RequestRules rules_;
  bool dispatches_all_ = true;  // intake_ is open, and nothing is counted
  Intake intake_ = Intake::kOpen;
  bool copies_ = false;     // the data of reads and writes, in user-copy mode
  bool zero_copy_ = false;  // unless it is registered in the ring
  bool uses_pool_ = false;  // for the data of reads and writes that have no other memory
  uint32_t tag_buffer_flag_ = 0;
  const uint16_t index_;
  const uint16_t depth_;
  const Handler handler_;

  const bool moves_data_;
  ublk::BufferMode mode_ = ublk::BufferMode::kCopy;
  Life life_ = Life::kNew;
  std::atomic<bool> submits_no_more_{false};  // cancel() or abandon() has run; for workers
  QueueThread& thread_;
  const DeviceQueueEvents events_;
  // The tags' data. Kept until the object goes, for a handler that has not answered.
  AnonymousMemory buffers_;
  std::vector<AnonymousMemory> more_buffers_;  // which tags have got in place of those
  std::vector<std::byte*> spare_buffers_;      // of all of them, those that no tag has
  AnonymousMemory refused_data_;               // of writes, in tags that were abandoned
  AnonymousMemory waiters_;
  uint64_t nr_registered_ = 0;  // reads and writes with zero copy, ever
  uint64_t nr_fallen_back_ = 0;
  std::shared_ptr<ublk::DeviceNode> node_;  // while the handler may move data
  void* handler_data_ = nullptr;
  ublk::Queue* queue_ = nullptr;  // while the kernel has it
  Tag* first_held_ = nullptr;
  Tag** last_held_ = &first_held_;
  unsigned nr_held_ = 0;
  unsigned nr_waiting_ = 0;  // for a buffer
  RateLimit complaints_;
  const std::shared_ptr<QueueStatistics> statistics_;
  const std::unique_ptr<Timeouts> timeouts_;  // nullptr: there is no io_timeout
  std::shared_ptr<void> alive_;               // from open() to closed()
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_QUEUE_H
