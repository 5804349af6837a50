// SPDX-License-Identifier: MIT
//
// One queue of a device: its connections, and the requests that wait for one.
#ifndef UBLK_HANDLERS_NBD_QUEUE_H
#define UBLK_HANDLERS_NBD_QUEUE_H

#include <chrono>
#include <memory>
#include <optional>
#include <ublk/handler.hpp>
#include <vector>

#include "connection.h"
#include "disk.h"
#include "ring_event.h"

namespace nbd {

// All on the queue's thread.
class Queue final : private ConnectionUser {
 public:
  // One connection for each of `handles`: those that are connected, and nullptr for one to be made.
  Queue(Disk& disk, ublk::HandlerQueue queue, std::vector<Handle> handles);

  // A result, or UBLK_PENDING; see ublk_handler.submit.
  int submit(ublk_request& request);
  // Fails all requests with ECANCELED, in this call or soon, and those that still come.
  void cancel();
  // See ublk_handler.queue_close. The object goes by itself when it has closed.
  static int close(std::unique_ptr<Queue> queue);

 private:
  void connected(Connection& connection) override;
  void lost(Connection& connection) override;
  void unanswered(Commands& commands) override;
  void complete(Command& command, int result) override;
  void fail(Commands& commands, int error) override;
  void closed() override;

  Connection* connection_for(const ublk_request& request);
  Connection* least_busy() const;
  void issue_waiting();
  void finish(Command& command, int result);
  bool is_time_over() const;
  void give_up();
  void keeps_waiting();
  void tell_trouble(const std::string& what);

  Disk& disk_;
  const ublk::HandlerQueue queue_;
  Commands waiting_;
  unsigned pending_ = 0;  // requests that have not been completed
  // When a connection was lost, for the first time since the server has answered a command or there
  // was none. A server that only takes connections gets no new time by each.
  std::optional<std::chrono::steady_clock::time_point> lost_since_;
  std::chrono::seconds patience_;  // what give_up_ is set to
  bool given_up_ = false;          // for as long as there is no connection
  bool cancelled_ = false;
  unsigned nr_open_;
  bool closing_ = false;
  bool in_trouble_ = false;  // the device has been told
  RingTimer<&Queue::give_up> give_up_{*this};
  RingTimer<&Queue::keeps_waiting> keeps_waiting_{*this};
  std::vector<std::unique_ptr<Connection>> connections_;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_QUEUE_H
