// SPDX-License-Identifier: MIT
//
// A connection to the system bus for as long as there is one.
#ifndef UBLK_RUNNER_SYSTEM_BUS_H
#define UBLK_RUNNER_SYSTEM_BUS_H

#include <functional>
#include <memory>
#include <string>

#include "glib_ptr.h"
#include "main_context.h"

namespace ublk_runner {

// Connects, and connects again when the bus has gone or is not there yet. Its trouble is logged and
// nobody else's. Control thread, in its default main context.
class SystemBus : public std::enable_shared_from_this<SystemBus> {
 public:
  // `connected` is called with each connection, and `closed` before the next one.
  SystemBus(const MainContext& context, std::string name,
            std::function<void(GDBusConnection*)> connected, std::function<void()> closed);
  ~SystemBus();
  SystemBus(const SystemBus&) = delete;
  SystemBus& operator=(const SystemBus&) = delete;

  void start();

 private:
  void connect();
  void on_connected(GDBusConnection* connection);
  void on_closed();
  void retry_later();

  const MainContext context_;
  const std::string name_;
  const std::function<void(GDBusConnection*)> connected_;
  const std::function<void()> closed_;
  const GlibRef<GCancellable> cancellable_;
  GlibRef<GDBusConnection> connection_;
  gulong closed_handler_ = 0;
  guint owner_ = 0;
  Source retry_;
};

// Whether root or this process's own user has sent the message, as the bus says. Blocks.
bool sender_is_trusted(GDBusMethodInvocation* invocation);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SYSTEM_BUS_H
