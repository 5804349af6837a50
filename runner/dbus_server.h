// SPDX-License-Identifier: MIT
//
// The runner on D-Bus, see org.ublk.Runner1.xml: on a socket of its own, for which no bus needs to
// run, and on the system bus where there is one. Root and this process's own user are let in.
#ifndef UBLK_RUNNER_DBUS_SERVER_H
#define UBLK_RUNNER_DBUS_SERVER_H

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "dbus_methods.h"
#include "dbus_objects.h"
#include "glib_ptr.h"
#include "system_bus.h"

namespace ublk_runner {

// Control thread, in the main context of `runner`, which must be its thread-default one. What goes
// wrong with D-Bus is logged; devices are served all the same.
class DbusServer {
 public:
  // `socket`: its path, in a folder that is nobody else's; what is left of an older one is
  // replaced. Takes runner.when_changed().
  DbusServer(Runner& runner, Reloader& reloader, const std::string& config_file,
             const std::string& socket, bool use_system_bus);
  // Once the runner has stopped: its operations would end halfway.
  ~DbusServer();
  DbusServer(const DbusServer&) = delete;
  DbusServer& operator=(const DbusServer&) = delete;

 private:
  // A client of the socket.
  struct Peer {
    GlibRef<GDBusConnection> connection;
    gulong closed_handler;
    std::unique_ptr<DbusObjects> objects;
  };

  void listen(const std::string& socket);
  bool on_new_connection(GDBusConnection* connection);
  void on_closed(GDBusConnection* connection);
  void runner_changed();
  void refresh();

  Runner& runner_;
  DbusMethods methods_;
  const std::shared_ptr<DbusServer*> self_;  // for what is posted
  GlibRef<GDBusServer> server_;
  std::list<Peer> peers_;
  std::unique_ptr<DbusObjects> system_objects_;
  std::shared_ptr<SystemBus> system_bus_;
  bool refresh_posted_ = false;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DBUS_SERVER_H
