// SPDX-License-Identifier: MIT
// The io_timeout of a DeviceQueue; for the files that implement it.
#ifndef UBLK_RUNNER_DEVICE_QUEUE_TIMEOUT_H
#define UBLK_RUNNER_DEVICE_QUEUE_TIMEOUT_H

#include <ublk/handler.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "anonymous_memory.h"
#include "device_queue.h"
#include "device_queue_tag.h"
#include "rate_limit.h"

namespace ublk_runner {

// A Tag that is not in tags_, with its scratch behind it.
struct DeviceQueue::StandIn : Tag {
  uint16_t number;
};

// Looks at the queue's requests four times in each io_timeout. No request costs anything for that:
// one that is where it was in the look before, in the same submission, has been there since then.
//
// A request that the handler has and that is failed leaves an orphan: its Tag, with its scratch and
// its buffer, which stay as they are until the handler has answered. The tag's next requests have
// another Tag, a stand-in, with a buffer of its own. The answer finds kTooLate and is dropped; the
// next look takes the memory back. The id of a request holds the address of its Tag, so an orphan's
// can't be taken for that of a later request.
//
// All on the queue's thread.
class DeviceQueue::Timeouts final : ublk_timer {
 public:
  // Throws std::bad_alloc.
  explicit Timeouts(DeviceQueue& queue);
  Timeouts(const Timeouts&) = delete;
  Timeouts& operator=(const Timeouts&) = delete;

  // From the time that the queue has requests until it has none, not even orphans.
  void begin();
  void end();

  unsigned nr_orphans() const { return static_cast<unsigned>(orphans_.size()); }
  // Asks the handler for their end, as DeviceQueue::cancel() does.
  void cancel_orphans();
  // Those that exceed it and can't be failed yet, after a last try. They are the caller's to
  // complete.
  std::vector<Tag*> take_claimed();

  // Of a tag that is replaced.
  Tag& stand_in(uint16_t number) const { return *current_[number]; }
  // Of a stand-in.
  static uint16_t number_of(const Tag& tag);
  static std::byte* scratch_of(const Tag& tag);

 private:
  enum class Place : uint8_t { kNone, kBuffer, kWorker, kHandler };

  // A tag in the last look that has found it waiting.
  struct Seen {
    uint64_t look;
    uint64_t since;
    uint16_t submission;
    Place place;
    bool told;       // that it takes too long
    bool postponed;  // it is to be failed once there is room for another orphan
  };
  struct Orphan {
    Tag* tag;
    std::byte* buffer;  // nullptr: it has none
  };

  void look();
  void look_at_tags();
  void look_at_workers();
  bool is_too_long(uint16_t number, Place place, uint16_t submission);
  void tell(uint16_t number, Place place, const char* consequence);
  void fail(ublk::Request& request);
  void fail_waiting(Tag& tag);
  bool has_room() const { return orphans_.size() + claimed_.size() < queue_.depth_; }
  void exceeded_by_handler(Tag& tag, uint16_t number, uint16_t submission);
  Tag& take_stand_in(uint16_t number);
  std::byte* take_buffer(uint16_t number);
  void fail_claimed();
  void fail_claimed(Tag& tag);
  void put_aside(Tag& tag, uint16_t number);
  void release_answered();
  void release(const Orphan& orphan);
  void arm();
  QueueStatistics::Timeouts& counters() { return queue_.statistics_->timeouts(); }

  DeviceQueue& queue_;
  const uint64_t limit_;  // nanoseconds
  size_t buffer_bytes_ = 0;
  std::vector<Seen> seen_;     // by tag
  std::vector<Tag*> current_;  // by tag; nullptr: the one in tags_
  std::vector<AnonymousMemory> stand_ins_;
  std::vector<Orphan> orphans_;
  std::vector<Tag*> claimed_;  // to be failed, once nobody moves their data any more
  uint64_t now_ = 0;
  uint64_t looks_ = 1;
  RateLimit complaints_;
};

// While a handler's thread moves data from or to the kernel, whose only name for it is the tag: the
// request must not be failed and the tag get its next one. Either Timeouts sees this thread, or
// this thread sees kTooLate: each writes its own word before it reads the other's, all in one
// order.
class DeviceQueue::DataMove {
 public:
  DataMove(const Tag& tag, uint64_t request_id)
      : tag_(tag), counted_(tag.queue->handler_.fails_late_requests) {
    if (!counted_) return;
    tag_.moving.fetch_add(1, std::memory_order_seq_cst);
    may_begin_ = tag_.awaited.load(std::memory_order_seq_cst) == Tag::submission_of(request_id);
  }
  ~DataMove() {
    if (counted_) tag_.moving.fetch_sub(1, std::memory_order_release);
  }
  DataMove(const DataMove&) = delete;
  DataMove& operator=(const DataMove&) = delete;

  bool may_begin() const { return may_begin_; }

 private:
  const Tag& tag_;
  const bool counted_;
  bool may_begin_ = true;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_QUEUE_TIMEOUT_H
