// SPDX-License-Identifier: MIT
//
// The timers of handlers (struct ublk_timer) on a queue thread's ring.
#ifndef UBLK_RUNNER_RING_TIMERS_H
#define UBLK_RUNNER_RING_TIMERS_H

#include <ublk/handler.h>
#include <ublk/ring.h>

#include <cstdint>
#include <deque>

namespace ublk_runner {

// Each armed timer is an IORING_OP_TIMEOUT of its own. The kernel's answer to it can come long
// after the handler has freed the ublk_timer, so what the kernel refers to is a node of ours, which
// lives until that answer has come and is used again then: nothing is allocated once there are as
// many nodes as timers were ever armed at once.
//
// Belongs to the ring's thread.
class RingTimers {
 public:
  explicit RingTimers(ublk::Ring& ring) : ring_(ring) {}
  RingTimers(const RingTimers&) = delete;
  RingTimers& operator=(const RingTimers&) = delete;

  // See ublk_host.set_timer and cancel_timer. `owner` is for cancel_all().
  void set(ublk_timer& timer, uint64_t nanoseconds, const void* owner);
  void cancel(ublk_timer& timer);
  // Cancels what `owner` has set and left, without a look at the timers; returns how many.
  unsigned cancel_all(const void* owner);

  // Handles a completion if it is a timer's.
  bool dispatch(const io_uring_cqe& cqe) {
    if ((cqe.user_data & kMarkMask) != kMark) return false;
    handle(cqe.user_data);
    return true;
  }

 private:
  static constexpr uint64_t kMarkMask = uint64_t{0xffff} << 48;
  static constexpr uint64_t kMark = uint64_t{0xb703} << 48;  // below it the node, 0: a cancellation

  struct Node {
    ublk_timer* timer = nullptr;  // nullptr: cancelled, or free
    const void* owner = nullptr;
    __kernel_timespec delay{};
    Node* next_free = nullptr;
  };

  static uint64_t user_data(const Node* node) { return kMark | reinterpret_cast<uint64_t>(node); }
  Node& take_node();
  void remove(Node& node);
  void handle(uint64_t user_data);

  ublk::Ring& ring_;
  std::deque<Node> nodes_;  // never shrinks, so that addresses stay
  Node* free_ = nullptr;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RING_TIMERS_H
