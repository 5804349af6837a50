// SPDX-License-Identifier: MIT
#include "libnbd_channel.h"

#include <poll.h>

#include <cerrno>
#include <utility>

namespace nbd {

LibnbdChannel::LibnbdChannel(ChannelUser& user, ublk::HandlerQueue queue, Handle handle, int fd)
    : user_(user), queue_(queue), handle_(std::move(handle)), fd_(fd) {
  readable_.poll(queue_, fd_, POLLIN);
}

// ---------------------------------------------------------------- commands --

void LibnbdChannel::issue(Command& command) {
  command.next = nullptr;
  *last_waiting_ = &command;
  last_waiting_ = &command.next;
  after_calls();
}

void LibnbdChannel::pump() {
  nbd_handle* h = handle_.get();
  while (waiting_ != nullptr && nbd_aio_is_ready(h) > 0) {
    Command& command = *waiting_;
    waiting_ = command.next;
    if (waiting_ == nullptr) last_waiting_ = &waiting_;
    if (begin(command) >= 0) continue;
    --in_libnbd_;
    // A command that libnbd did not take is one without an answer, if the connection is to blame.
    if (!nbd_aio_is_dead(h) && !nbd_aio_is_closed(h))
      note_answer(command, nbd_get_errno() != 0 ? nbd_get_errno() : EIO);
  }
}

int64_t LibnbdChannel::begin(Command& command) {
  const ublk_request& request = command.request;
  nbd_handle* h = handle_.get();
  const nbd_completion_callback done = {
      .callback = completed, .user_data = &command, .free = nullptr};
  const uint32_t fua = request.flags & UBLK_REQUEST_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
  command.channel = this;
  command.received = 0;
  ++in_libnbd_;  // it may be answered in this call
  switch (request.op) {
    case UBLK_OP_READ:
      return nbd_aio_pread_structured(
          h, request.buffer, request.length, request.offset,
          {.callback = received, .user_data = &command, .free = nullptr}, done, 0);
    case UBLK_OP_WRITE:
      return nbd_aio_pwrite(h, request.buffer, request.length, request.offset, done, fua);
    case UBLK_OP_FLUSH:
      return nbd_aio_flush(h, done, 0);
    case UBLK_OP_DISCARD:
      return nbd_aio_trim(h, request.length, request.offset, done, fua);
    default:
      const uint32_t no_hole = request.flags & UBLK_REQUEST_NO_UNMAP ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
      return nbd_aio_zero(h, request.length, request.offset, done, fua | no_hole);
  }
}

// A part of a read, also where the server knows no parts. A hole's zeroes are in the buffer.
int LibnbdChannel::received(void* data, const void*, size_t bytes, uint64_t, unsigned status,
                            int*) {
  if (status != LIBNBD_READ_ERROR)
    static_cast<Command*>(data)->received += static_cast<uint32_t>(bytes);
  return 0;
}

// libnbd holds its lock: nothing of it may be called. It says ENOTCONN, which is no error of the
// protocol, of those that it gives up.
int LibnbdChannel::completed(void* data, int* error) {
  Command& command = *static_cast<Command*>(data);
  const ublk_request& request = command.request;
  if (*error == 0 && request.op == UBLK_OP_READ && command.received != request.length)
    *error = EIO;  // data that the server has left out is no data
  auto& channel = *static_cast<LibnbdChannel*>(command.channel);
  --channel.in_libnbd_;
  if (*error != ENOTCONN) channel.note_answer(command, *error);
  return 1;  // libnbd forgets it
}

void LibnbdChannel::note_answer(Command& command, int error) {
  command.error = error;
  command.next = nullptr;
  *last_answered_ = &command;
  last_answered_ = &command.next;
}

// ------------------------------------------------------------------ events --

bool LibnbdChannel::wants_to_write() const {
  return nbd_aio_get_direction(handle_.get()) & LIBNBD_AIO_DIRECTION_WRITE;
}

// libnbd takes one answer each time.
void LibnbdChannel::readable(int) {
  if (handle_ == nullptr) return told_idle();
  pollfd socket = {fd_, POLLIN, 0};
  while (may_read() && ::poll(&socket, 1, 0) > 0)
    if (nbd_aio_notify_read(handle_.get()) < 0) break;
  after_calls();
}

// The one that is being sent has no answer yet.
bool LibnbdChannel::may_read() const {
  return nbd_aio_get_direction(handle_.get()) & LIBNBD_AIO_DIRECTION_READ &&
         (!wants_to_write() || in_libnbd_ > 1);
}

void LibnbdChannel::writable(int) {
  if (handle_ == nullptr) return told_idle();
  if (wants_to_write()) static_cast<void>(nbd_aio_notify_write(handle_.get()));
  after_calls();
}

// What libnbd wants next, and what it has told. The user may call issue() meanwhile, or stop().
void LibnbdChannel::after_calls() {
  if (telling_) return;
  telling_ = true;
  if (handle_ != nullptr) pump();
  while (handle_ != nullptr && answered_ != nullptr) {
    Command& command = *answered_;
    answered_ = command.next;
    if (answered_ == nullptr) last_answered_ = &answered_;
    user_.answered(command, command.error);
    if (handle_ != nullptr) pump();
  }
  telling_ = false;
  if (handle_ == nullptr || is_broken_) return;
  nbd_handle* h = handle_.get();
  if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h)) {
    is_broken_ = true;
    return user_.broken(nbd_aio_is_closed(h) ? "the server has closed it" : last_error());
  }
  if (may_read()) readable_.poll(queue_, fd_, POLLIN);
  if (wants_to_write()) writable_.poll(queue_, fd_, POLLOUT);
}

// --------------------------------------------------------------------- end --

void LibnbdChannel::disconnect() { static_cast<void>(nbd_aio_disconnect(handle_.get(), 0)); }

// Without its handle libnbd uses nothing of the commands any more.
void LibnbdChannel::stop() { handle_.reset(); }

void LibnbdChannel::told_idle() {
  if (is_idle()) user_.idle();
}

}  // namespace nbd
