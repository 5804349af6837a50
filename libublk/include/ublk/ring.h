// SPDX-License-Identifier: MIT
//
// The library's part of an io_uring that belongs to the caller. One ring serves any number of
// queues of any devices, and the caller's own I/O beside them:
//
//   io_uring uring;
//   const unsigned file_slots = ublk::Ring::init(&uring, 4096);
//   ublk::Ring ring(&uring, file_slots);
//   ring.attach(device.node(), 0, backend);
//   while (!done) {
//     ring.run_once([&](const io_uring_cqe& cqe) { ... the caller's own completions ... });
//   }
//
// which is short for what a loop of the caller's own does:
//
//     ring.prepare_wait();
//     io_uring_submit_and_wait(&uring, 1);
//     ring.wait_over();
//     for each cqe: if (!ring.dispatch(cqe)) ... the caller's own ...
//     io_uring_cq_advance(...);
//
// A program whose main loop polls file descriptors registers an eventfd with its ring
// (io_uring_register_eventfd), calls prepare_wait() and io_uring_submit() before it polls, and when
// the eventfd is readable reads it and does the rest, io_uring_get_events() first. The ring's own
// descriptor does not do: with DEFER_TASKRUN the kernel does not wake those who poll it.
// examples/glib_loop.cpp shows it.
//
// Zero copy: with the first queue of a device that has it (see zero_copy()) the ring gets a buffer
// table of 16384 slots, one for each tag. Of queues that find it full, and if the caller has
// registered buffers of its own, no request's data is registered, and all of it is moved by user
// copy.
//
// Batch I/O: with the first queue of a device that has kFlagBatchIo the ring registers provided
// buffers under the group 0xb70.
//
// user_data: values whose top byte is 0xb7 are the library's and the handlers'; user-space pointers
// and small numbers never have it.
//
// A ring's thread that passes requests on to others, on CPUs that are busy, does better with
// SCHED_BATCH (sched(7)): woken for each request, it would otherwise stop who works for it.
//
// Threads: a Ring belongs to the thread that made it, as the io_uring does; post() and completions
// of requests come from anywhere.
#ifndef UBLK_RING_H
#define UBLK_RING_H

#include <liburing.h>
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "ublk/completion_batch.h"
#include "ublk/driver.h"
#include "ublk/export.h"
#include "ublk/queue.h"

namespace ublk {

namespace internal {
struct RingBatch;
}

class UBLK_EXPORT Ring {
 public:
  // Sets up an io_uring as serving wants it: SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, a submit
  // queue of 256, room for `cq_entries` completions (a power of two up to 65536: the sum of all
  // queues' depths and the caller's own I/O; beyond it nothing is lost, but it gets slower), and a
  // sparse file table, whose size it returns: 0 if the system refuses one, or before Linux 6.14,
  // where a device that has left the table may stay open as long as another one is in it. Call it
  // on the thread that will serve. Throws Error. io_uring_queue_exit() is the caller's.
  static unsigned init(io_uring* uring, unsigned cq_entries);

  // `uring` must outlive the Ring. Of its file table the first `file_slots` slots are the
  // library's: /dev/ublkcN of as many devices is registered there while their queues are attached,
  // which makes each command cheaper. Throws Error.
  explicit Ring(io_uring* uring, unsigned file_slots = 0);
  // All queues must have stopped.
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Starts to serve a queue: hands all of its tags to the kernel, from this thread, which becomes
  // the queue's server: it must live until the queue has stopped. The backend is referenced until
  // stopped(). The Queue belongs to the ring. Throws Error or std::bad_alloc; then nothing of the
  // queue is left, and the backend's buffers are freed.
  Queue& attach(std::shared_ptr<DeviceNode> node, uint16_t queue, Backend& backend);

  // Handles a completion if it is the library's; false: it is not.
  bool dispatch(const io_uring_cqe& cqe) {
    if ((cqe.user_data >> 48) != kMark) return false;
    handle(cqe.user_data, cqe.res, cqe.flags);
    return true;
  }

  // Before the ring's thread waits: takes in what other threads have completed and posted. From
  // here until wait_over() other threads write to the ring's eventfd when they complete a request,
  // unless they commit it by themselves (kFlagBatchIo).
  void prepare_wait();
  void wait_over();
  // Without a system call, for a thread that looks again before it waits: prepare_wait() would take
  // in something, or the kernel has completions, which it delivers when it is asked.
  bool has_news() const {
    return completed_.load(std::memory_order_relaxed) > kAsleep ||
           has_posted_.load(std::memory_order_relaxed) || io_uring_cq_ready(uring_) != 0 ||
           (IO_URING_READ_ONCE(*uring_->sq.kflags) & IORING_SQ_TASKRUN) != 0;
  }

  // Submits, waits for at least one completion, and dispatches all that are there. `other` gets
  // those that are not the library's. Returns 0 or -errno of io_uring_enter (-EINTR).
  template <class Other>
  int run_once(Other&& other);
  int run_once() {
    return run_once([](const io_uring_cqe&) {});
  }

  // Runs `task` on the ring's thread, soon. Any thread.
  void post(std::function<void()> task);

  // An empty SQE; submits what is there if the ring is full, so it never is nullptr unless the
  // kernel refuses to take any. Not for other threads.
  io_uring_sqe* get_sqe();
  // Makes room, so that the next `count` SQEs are submitted together.
  void reserve_sqes(unsigned count);

  io_uring* uring() const { return uring_; }
  bool on_own_thread() const { return pthread_equal(pthread_self(), thread_) != 0; }
  size_t nr_queues() const { return nr_queues_; }

  // Since the ring was made: requests completed by other threads (for the ring's thread), and
  // writes to the eventfd (any thread).
  uint64_t remote_completions() const { return remote_completions_; }
  uint64_t wakeups() const { return wakeup_->writes(); }

 private:
  friend class Queue;
  friend class Request;
  friend class internal::RemoteCommits;
  static constexpr uint64_t kMark = 0xb700;  // the top of the library's user_data

  // Memory of a queue's slots. It is kept and used again until the ring ends, because a buggy
  // second completion may look at a slot after its queue has gone.
  struct SlotBlock {
    internal::Slot* slots;
    size_t bytes;
    bool free;
  };

  // A device's descriptor in the ring's file table; queues of one device share it.
  struct FileSlot {
    const DeviceNode* node;  // nullptr: free, unless it is stale
    unsigned queues;
    bool stale;  // the kernel still has a descriptor there
  };
  int take_file_slot(const DeviceNode& node);  // -1: none is free
  void give_back_file_slot(int slot);
  void clear_file_slots();

  // Slots of the ring's buffer table that a queue's tags have.
  struct BufferSlots {
    unsigned first;
    unsigned count;
  };
  int take_buffer_slots(const DeviceNode& node);  // the first one's, or what Queue knows
  void give_back_buffer_slots(int first);

  void handle(uint64_t user_data, int result, uint32_t flags);
  void queue_stopped(Queue& queue);
  bool may_sleep();
  void push_completed(internal::Slot& slot, CompletionBatch* batch);
  void drain_completed();
  void route_completion(internal::Slot& slot, CompletionBatch* batch);  // any thread
  void commit_or_get_data(internal::Slot& slot);                        // the ring's thread
  void defer(internal::Slot& slot);
  void release_after_submit(Queue& queue, uint16_t tag, std::byte* buffer);
  void release_buffers();
  void release_buffers_of(Queue& queue);
  void retry_deferred();
  void start_fetches();
  void stop_idle_queues();
  void run_posted();
  void arm_wakeup_poll();
  internal::Slot* take_slots(uint16_t depth);
  void give_back_slots(internal::Slot* slots);

  io_uring* const uring_;
  const pthread_t thread_;
  const std::shared_ptr<internal::Wakeup> wakeup_;
  std::vector<std::unique_ptr<Queue>> queues_;  // by ring_slot_; holes are free
  std::vector<SlotBlock> slot_blocks_;
  std::vector<FileSlot> file_slots_;
  std::unique_ptr<internal::RingBatch> batch_;  // since the first queue with kFlagBatchIo
  size_t nr_ending_ = 0;                        // queues that are ending_
  bool fetches_again_ = false;                  // some Queue::wants_fetch()
  bool stale_file_slots_ = false;
  unsigned buffer_table_size_ = 0;  // 0 with tried_buffer_table_: there is none
  bool tried_buffer_table_ = false;
  std::vector<BufferSlots> buffer_slots_;  // ascending
  internal::Slot* deferred_ = nullptr;     // slots for whose command the ring had no SQE

  // Buffers of reads in get-data mode, which the kernel reads when it takes the commit.
  struct UsedBuffer {
    Queue* queue;
    uint16_t tag;
    std::byte* buffer;
  };
  std::vector<UsedBuffer> used_buffers_;
  size_t nr_queues_ = 0;
  size_t in_flight_ = 0;
  uint64_t remote_completions_ = 0;

  // Completed by other threads: the first slot of a list, or kEmpty, or kAsleep: empty, and the
  // ring's thread may sleep. One word, so that looking at the list and arming the wake-up are one.
  static constexpr uintptr_t kEmpty = 0;
  static constexpr uintptr_t kAsleep = 1;
  alignas(64) std::atomic<uintptr_t> completed_{kEmpty};

  std::mutex posted_mutex_;  // a leaf: nothing is called with it held
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> has_posted_{false};
};

template <class Other>
int Ring::run_once(Other&& other) {
  prepare_wait();
  const int rc = io_uring_submit_and_wait(uring_, 1);
  wait_over();
  // What was handled is taken from the ring, also when an exception leaves `other`.
  struct Taken {
    ~Taken() { io_uring_cq_advance(uring, count); }
    io_uring* const uring;
    unsigned count;
  } taken{uring_, 0};
  // No more than there are now: others may come for as long as this goes on.
  const unsigned ready = io_uring_cq_ready(uring_);
  unsigned head;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(uring_, head, cqe) {
    if (taken.count == ready) break;
    ++taken.count;
    if (!dispatch(*cqe)) other(*cqe);
  }
  return rc < 0 ? rc : 0;
}

}  // namespace ublk

#endif  // UBLK_RING_H
