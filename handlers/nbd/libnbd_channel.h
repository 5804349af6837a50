// SPDX-License-Identifier: MIT
//
// A channel by libnbd: for connections with TLS, which is libnbd's.
//
// libnbd that looks for an answer in vain waits for one, and meanwhile sends nothing: neither what
// is queued nor the rest of what it has begun. So it gets a command only when it has sent the one
// before, and looks only if there is something, and an answer to come that needs no more sending.
#ifndef UBLK_HANDLERS_NBD_LIBNBD_CHANNEL_H
#define UBLK_HANDLERS_NBD_LIBNBD_CHANNEL_H

#include <cstddef>
#include <cstdint>
#include <ublk/handler.hpp>

#include "channel.h"
#include "ring_event.h"
#include "server.h"

namespace nbd {

class LibnbdChannel final : public Channel {
 public:
  // `fd` is the connection's socket, or a duplicate of it.
  LibnbdChannel(ChannelUser& user, ublk::HandlerQueue queue, Handle handle, int fd);

  void issue(Command& command) override;
  void disconnect() override;
  void stop() override;
  bool is_idle() const override { return !readable_.armed() && !writable_.armed(); }

 private:
  static int received(void* command, const void* data, size_t bytes, uint64_t offset,
                      unsigned status, int* error);
  static int completed(void* command, int* error);

  void pump();
  int64_t begin(Command& command);
  void note_answer(Command& command, int error);
  void readable(int result);
  void writable(int result);
  bool wants_to_write() const;
  bool may_read() const;
  void after_calls();
  void told_idle();

  ChannelUser& user_;
  const ublk::HandlerQueue queue_;
  Handle handle_;  // nullptr: stopped
  const int fd_;
  // What libnbd is still to be given, in order.
  Command* waiting_ = nullptr;
  Command** last_waiting_ = &waiting_;
  unsigned in_libnbd_ = 0;  // commands; all are sent but the last, perhaps
  // What is to be told to the user when libnbd has returned, in order.
  Command* answered_ = nullptr;
  Command** last_answered_ = &answered_;
  bool is_broken_ = false;
  bool telling_ = false;
  RingEvent<&LibnbdChannel::readable> readable_{*this};
  RingEvent<&LibnbdChannel::writable> writable_{*this};
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_LIBNBD_CHANNEL_H
