// SPDX-License-Identifier: MIT
//
// A connection whose handshake is done: commands go to the server, answers come back.
#ifndef UBLK_HANDLERS_NBD_CHANNEL_H
#define UBLK_HANDLERS_NBD_CHANNEL_H

#include <string>

#include "command.h"

namespace nbd {

// Who uses a channel. Called on the queue's thread.
class ChannelUser {
 public:
  // The server has answered, with that errno or 0. The command is the user's again. May issue().
  virtual void answered(Command& command, int error) = 0;
  // The connection can't be used any more. Commands without an answer are still the channel's,
  // until it is idle. Comes once at most, and not after stop().
  virtual void broken(const std::string& why) = 0;
  // After stop(): the channel is idle. It may be destroyed in this call.
  virtual void idle() = 0;

 protected:
  ~ChannelUser() = default;
};

// All on the queue's thread.
class Channel {
 public:
  virtual ~Channel() = default;

  virtual void issue(Command& command) = 0;
  // Tells the server that no command will follow. No command may be without an answer.
  virtual void disconnect() = 0;
  // Answers nothing more. Until it is idle the commands' memory may still be used; once the socket
  // is shut down that comes soon.
  virtual void stop() = 0;
  virtual bool is_idle() const = 0;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_CHANNEL_H
