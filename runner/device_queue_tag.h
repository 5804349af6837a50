// SPDX-License-Identifier: MIT
// A tag of a DeviceQueue; for the files that implement it.
#ifndef UBLK_RUNNER_DEVICE_QUEUE_TAG_H
#define UBLK_RUNNER_DEVICE_QUEUE_TAG_H

#include <ublk/buffer_pool.h>
#include <ublk/handler.h>
#include <ublk/request.h>

#include <atomic>
#include <cstdint>

#include "device_queue.h"
#include "worker_pool.h"

namespace ublk_runner {

// A tag's request. All zero is an idle tag, so that memory of tags that never see a request is
// never touched.
//
// Who may touch it: the queue's thread; from the time it goes to the worker pool the worker that
// runs it; and from the call of submit() on whoever wins the exchange of `awaited`, which says that
// a submission's result is still to come. It is won once, by submit()'s return or by one call of
// complete(), so a result that comes twice finds nothing.
//
// A request that has exceeded io_timeout may be failed while the handler still has it. Then this
// Tag stays the handler's, and another one, a stand-in, takes its place; see
// device_queue_timeout.h.
//
// As an Item it is in the worker pool; as a ublk_event it waits for the ring to copy its data.
struct alignas(64) DeviceQueue::Tag : WorkerPool::Item, ublk_event {
  ublk_request request;  // the handler's view of what is left to do
  ublk::Request whole;   // the whole request
  DeviceQueue* queue;    // set by the first request
  // The submission whose result is to come; 0: none. With kTooLate: it is to be dropped.
  std::atomic<uint32_t> awaited;
  uint16_t submissions;  // counts them; never 0 in a request id
  bool has_data;         // a read or write
  bool spoilt;     // in copy mode: its buffer got data of a write that the handler has not seen
  bool abandoned;  // the handler may still use its buffer, so nobody else may
  bool waiting;    // for a buffer
  bool replaced;   // of one in tags_: a stand-in takes its place
  bool is_stand_in;
  uint32_t length;  // bytes of the whole request
  uint32_t left;    // of a read or write: still to do
  // Threads that move data from or to the kernel for the handler; counted if requests can be failed
  // meanwhile. See DataMove.
  mutable std::atomic<uint32_t> moving;
  Tag* next_held;

  static constexpr uint32_t kTooLate = 1u << 16;

  // A request id: the submission in the top bits, which user-space addresses leave free, above the
  // address of the tag. The next submission of the tag has another id.
  static constexpr unsigned kIdShift = 48;
  static uint16_t submission_of(uint64_t request_id) {
    return static_cast<uint16_t>(request_id >> kIdShift);
  }
};

// A tag's place in the line for a buffer. All tags of a queue have one, in memory that is not
// touched before the first of them has to wait.
class DeviceQueue::BufferWaiter final : public ublk::BufferPool::Waiter {
 public:
  explicit BufferWaiter(Tag& tag) : tag_(tag) {}
  void granted(std::byte* buffer) noexcept override;

 private:
  Tag& tag_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_QUEUE_TAG_H
