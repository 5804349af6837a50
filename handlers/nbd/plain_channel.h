// SPDX-License-Identifier: MIT
//
// A channel over a socket without TLS. libnbd has made the connection; from there on it would send
// and receive each command by system calls of its own, several for each. Here all commands of a
// turn of the queue's thread leave by one SQE, and all answers that are there come by one.
#ifndef UBLK_HANDLERS_NBD_PLAIN_CHANNEL_H
#define UBLK_HANDLERS_NBD_PLAIN_CHANNEL_H

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <ublk/handler.hpp>
#include <vector>

#include "channel.h"
#include "replies.h"
#include "ring_event.h"
#include "wire.h"

namespace nbd {

class PlainChannel final : public Channel, private ReplyUser {
 public:
  PlainChannel(ChannelUser& user, ublk::HandlerQueue queue, int fd);

  void issue(Command& command) override;
  void disconnect() override;
  void stop() override { stopped_ = true; }
  bool is_idle() const override { return !sent_.armed() && !received_.armed(); }

 private:
  // Commands without an answer, by the lower half of their cookie; the upper half makes it unique.
  struct Slot {
    Command* command;
    uint32_t use;
  };

  Command* find(uint64_t cookie) override;
  void replied(Command& command, int error) override;

  uint64_t take_slot(Command& command);
  void add(void* data, size_t bytes);
  void send();
  void sent(int result);
  void forget_sent();
  void receive();
  void received(int result);
  void broken(const std::string& why);

  ChannelUser& user_;
  const ublk::HandlerQueue queue_;
  const int fd_;
  bool stopped_ = false;
  bool drained_ = false;  // there was nothing more to receive
  // The receive that is under way: waits for all bytes, asks for so many.
  bool whole_ = false;
  size_t asked_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::vector<iovec> to_send_;  // what has been sent of it is told by first_
  size_t first_ = 0;
  msghdr message_{};
  Replies replies_{*this};
  RingEvent<&PlainChannel::sent> sent_{*this};
  RingEvent<&PlainChannel::received> received_{*this};
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_PLAIN_CHANNEL_H
