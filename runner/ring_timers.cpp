// SPDX-License-Identifier: MIT
#include "ring_timers.h"

#include <utility>

#include "ring_sqe.h"

namespace ublk_runner {

namespace {

constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;

}  // namespace

RingTimers::Node& RingTimers::take_node() {
  if (free_ == nullptr) return nodes_.emplace_back();
  return *std::exchange(free_, free_->next_free);
}

// host_private[0] is the node of a timer that is set, and nullptr otherwise.
void RingTimers::set(ublk_timer& timer, uint64_t nanoseconds, const void* owner) {
  cancel(timer);
  Node& node = take_node();
  node.timer = &timer;
  node.owner = owner;
  node.delay = {.tv_sec = static_cast<int64_t>(nanoseconds / kNanosecondsPerSecond),
                .tv_nsec = static_cast<int64_t>(nanoseconds % kNanosecondsPerSecond)};
  timer.host_private[0] = &node;
  io_uring_sqe& sqe = get_sqe(ring_);
  io_uring_prep_timeout(&sqe, &node.delay, 0, 0);
  io_uring_sqe_set_data64(&sqe, user_data(&node));
}

void RingTimers::cancel(ublk_timer& timer) {
  void* node = std::exchange(timer.host_private[0], nullptr);
  if (node != nullptr) remove(*static_cast<Node*>(node));
}

// The node is free when the timeout's own completion has come: -ECANCELED now, or -ETIME if the
// cancellation is too late.
void RingTimers::remove(Node& node) {
  node.timer = nullptr;
  io_uring_sqe& sqe = get_sqe(ring_);
  io_uring_prep_timeout_remove(&sqe, user_data(&node), 0);
  io_uring_sqe_set_data64(&sqe, user_data(nullptr));
}

unsigned RingTimers::cancel_all(const void* owner) {
  unsigned cancelled = 0;
  for (Node& node : nodes_) {
    if (node.timer == nullptr || node.owner != owner) continue;
    remove(node);
    ++cancelled;
  }
  return cancelled;
}

void RingTimers::handle(uint64_t user_data) {
  auto* node = reinterpret_cast<Node*>(user_data & ~kMarkMask);
  if (node == nullptr) return;
  ublk_timer* timer = std::exchange(node->timer, nullptr);
  node->next_free = std::exchange(free_, node);
  if (timer == nullptr) return;
  timer->host_private[0] = nullptr;
  timer->fired(timer);
}

}  // namespace ublk_runner
