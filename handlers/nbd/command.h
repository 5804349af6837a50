// SPDX-License-Identifier: MIT
//
// A request on its way to the server and back. In the request's scratch.
#ifndef UBLK_HANDLERS_NBD_COMMAND_H
#define UBLK_HANDLERS_NBD_COMMAND_H

#include <ublk/handler.h>
#include <ublk/intrusive_list.h>

#include <cstdint>

#include "wire.h"

namespace nbd {

struct Command {
  explicit Command(ublk_request& of) : request(of), link(this) {}

  // The result of the request, once the server has answered with that errno or 0.
  int result(int error) const {
    if (error != 0) return -error;
    const bool has_data = request.op == UBLK_OP_READ || request.op == UBLK_OP_WRITE;
    return has_data ? static_cast<int>(request.length) : 0;
  }

  ublk_request& request;
  ublk::internal::ListLink<Command> link;  // of those that wait, or that a connection has
  // The channel's own, while it has the command.
  int error = 0;  // the server's, a positive errno
  void* channel = nullptr;
  Command* next = nullptr;
  wire::Request header;   // as it is sent
  uint32_t received = 0;  // bytes of a READ
};

using Commands = ublk::internal::List<Command>;

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_COMMAND_H
