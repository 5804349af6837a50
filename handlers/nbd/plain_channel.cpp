// SPDX-License-Identifier: MIT
#include "plain_channel.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <system_error>

namespace nbd {
namespace {

constexpr size_t kManySent = 1024;  // parts of to_send_ that are kept though they have been sent

wire::Type type_of(uint8_t op) {
  switch (op) {
    case UBLK_OP_READ:
      return wire::kRead;
    case UBLK_OP_WRITE:
      return wire::kWrite;
    case UBLK_OP_FLUSH:
      return wire::kFlush;
    case UBLK_OP_DISCARD:
      return wire::kTrim;
    default:
      return wire::kWriteZeroes;
  }
}

wire::Request encoded(const ublk_request& request, uint64_t cookie) {
  const bool writes_zeroes = request.op == UBLK_OP_WRITE_ZEROES;
  uint16_t flags = 0;
  if ((request.flags & UBLK_REQUEST_FUA) != 0) flags |= wire::kFua;
  if (writes_zeroes && (request.flags & UBLK_REQUEST_NO_UNMAP) != 0) flags |= wire::kNoHole;
  return {.magic = htobe32(wire::kRequestMagic),
          .flags = htobe16(flags),
          .type = htobe16(type_of(request.op)),
          .cookie = htobe64(cookie),
          .offset = htobe64(request.offset),
          .length = htobe32(request.length)};
}

}  // namespace

PlainChannel::PlainChannel(ChannelUser& user, ublk::HandlerQueue queue, int fd)
    : user_(user), queue_(queue), fd_(fd) {
  receive();
}

// ----------------------------------------------------------------- sending --

void PlainChannel::issue(Command& command) {
  command.header = encoded(command.request, take_slot(command));
  command.error = 0;
  command.received = 0;
  add(&command.header, sizeof(command.header));
  if (command.request.op == UBLK_OP_WRITE) add(command.request.buffer, command.request.length);
  send();
}

uint64_t PlainChannel::take_slot(Command& command) {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.push_back({nullptr, 0});
  }
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  slots_[index].command = &command;
  return uint64_t{++slots_[index].use} << 32 | index;
}

// At once, for the socket is shut down next. Nothing else is on its way.
void PlainChannel::disconnect() {
  const wire::Request goodbye = {.magic = htobe32(wire::kRequestMagic),
                                 .flags = 0,
                                 .type = htobe16(wire::kDisconnect),
                                 .cookie = 0,
                                 .offset = 0,
                                 .length = 0};
  static_cast<void>(::send(fd_, &goodbye, sizeof(goodbye), MSG_DONTWAIT | MSG_NOSIGNAL));
}

// What is added after the SQE has been filled in, but before the kernel has seen it, goes with it;
// the result says how much that was.
void PlainChannel::add(void* data, size_t bytes) {
  to_send_.push_back({.iov_base = data, .iov_len = bytes});
  message_.msg_iov = to_send_.data() + first_;
  message_.msg_iovlen = std::min<size_t>(to_send_.size() - first_, IOV_MAX);
}

void PlainChannel::send() {
  if (sent_.armed()) return;
  io_uring_sqe& sqe = sent_.begin(queue_);
  sqe.opcode = IORING_OP_SENDMSG;
  sqe.fd = fd_;
  sqe.addr = reinterpret_cast<uintptr_t>(&message_);
  sqe.len = 1;
  sqe.msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

void PlainChannel::sent(int result) {
  if (stopped_) return user_.idle();
  if (result < 0 && result != -EINTR && result != -EAGAIN)
    return broken("send: " + std::generic_category().message(-result));
  auto left = static_cast<size_t>(std::max(result, 0));
  while (left != 0) {
    iovec& part = to_send_[first_];
    const size_t length = std::min(left, part.iov_len);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + length;
    part.iov_len -= length;
    left -= length;
    if (part.iov_len == 0) ++first_;
  }
  forget_sent();
  if (to_send_.empty()) return;
  message_.msg_iov = to_send_.data() + first_;
  message_.msg_iovlen = std::min<size_t>(to_send_.size() - first_, IOV_MAX);
  send();
}

// The kernel looks at nothing of it now. While the socket is full there is always something left.
void PlainChannel::forget_sent() {
  if (first_ != to_send_.size() && (first_ < kManySent || first_ < to_send_.size() / 2)) return;
  to_send_.erase(to_send_.begin(), to_send_.begin() + static_cast<ptrdiff_t>(first_));
  first_ = 0;
}

// --------------------------------------------------------------- receiving --

void PlainChannel::receive() {
  const std::span<std::byte> space = replies_.space(whole_);
  asked_ = space.size();
  io_uring_sqe& sqe = received_.begin(queue_);
  sqe.opcode = IORING_OP_RECV;
  sqe.fd = fd_;
  sqe.addr = reinterpret_cast<uintptr_t>(space.data());
  sqe.len = static_cast<uint32_t>(asked_);
  sqe.msg_flags = whole_ ? MSG_WAITALL : 0;
  if (drained_) sqe.ioprio = IORING_RECVSEND_POLL_FIRST;
}

void PlainChannel::received(int result) {
  if (stopped_) return user_.idle();
  if (result == 0) return broken("the server has closed it");
  if (result < 0 && result != -EINTR && result != -EAGAIN)
    return broken("recv: " + std::generic_category().message(-result));
  if (result > 0) {
    drained_ = static_cast<size_t>(result) < asked_;
    if (!replies_.take(static_cast<size_t>(result)))
      return broken("the server sends what is not the protocol");
  }
  if (stopped_) return user_.idle();
  receive();
}

Command* PlainChannel::find(uint64_t cookie) {
  const auto index = static_cast<uint32_t>(cookie);
  if (index >= slots_.size() || slots_[index].use != cookie >> 32) return nullptr;
  return slots_[index].command;
}

void PlainChannel::replied(Command& command, int error) {
  const auto index = static_cast<uint32_t>(be64toh(command.header.cookie));
  slots_[index].command = nullptr;
  free_slots_.push_back(index);
  user_.answered(command, error);
}

// --------------------------------------------------------------------- end --

void PlainChannel::broken(const std::string& why) {
  if (!stopped_) user_.broken(why);
}

}  // namespace nbd
