// SPDX-License-Identifier: MIT
//
// The end of an SQE, or of a time, as a call of a member function on the queue's thread:
//
//   RingEvent<&Connection::readable> readable_{*this};
//   io_uring_sqe& sqe = readable_.begin(queue);   // then fill it in, all but its user_data
#ifndef UBLK_HANDLERS_NBD_RING_EVENT_H
#define UBLK_HANDLERS_NBD_RING_EVENT_H

#include <linux/io_uring.h>

#include <bit>
#include <chrono>
#include <cstdint>
#include <ublk/handler.hpp>

namespace nbd {

template <auto member>
class RingEvent;

template <class T, void (T::*member)(int)>
class RingEvent<member> : private ublk_event {
 public:
  explicit RingEvent(T& object) : ublk_event{ended}, object_(object) {}
  RingEvent(const RingEvent&) = delete;
  RingEvent& operator=(const RingEvent&) = delete;

  // The SQE must have one CQE. Until it has come this is armed, and must stay.
  io_uring_sqe& begin(const ublk::HandlerQueue& queue) {
    armed_ = true;
    io_uring_sqe& sqe = *queue.get_sqe();
    sqe.user_data = ublk_event_user_data(this);
    return sqe;
  }
  // Waits for poll(2) events of the descriptor; no-op if armed.
  void poll(const ublk::HandlerQueue& queue, int fd, short events) {
    if (armed_) return;
    io_uring_sqe& sqe = begin(queue);
    const auto wanted = static_cast<uint32_t>(static_cast<unsigned short>(events));
    sqe.opcode = IORING_OP_POLL_ADD;
    sqe.fd = fd;
    sqe.poll32_events = std::endian::native == std::endian::big ? wanted << 16 : wanted;
  }
  bool armed() const { return armed_; }

 private:
  static void ended(ublk_event* event, int32_t result, uint32_t) {
    auto& self = static_cast<RingEvent&>(*event);
    self.armed_ = false;
    (self.object_.*member)(result);
  }

  T& object_;
  bool armed_ = false;
};

template <auto member>
class RingTimer;

template <class T, void (T::*member)()>
class RingTimer<member> : private ublk_timer {
 public:
  explicit RingTimer(T& object) : ublk_timer{fired, {}}, object_(object) {}
  RingTimer(const RingTimer&) = delete;
  RingTimer& operator=(const RingTimer&) = delete;

  void set(const ublk::HandlerQueue& queue, std::chrono::nanoseconds delay) {
    set_ = true;
    queue.set_timer(*this, delay);
  }
  void cancel(const ublk::HandlerQueue& queue) {
    if (set_) queue.cancel_timer(*this);
    set_ = false;
  }
  bool is_set() const { return set_; }

 private:
  static void fired(ublk_timer* timer) {
    auto& self = static_cast<RingTimer&>(*timer);
    self.set_ = false;
    (self.object_.*member)();
  }

  T& object_;
  bool set_ = false;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_RING_EVENT_H
