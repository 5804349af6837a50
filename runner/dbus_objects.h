// SPDX-License-Identifier: MIT
//
// The objects of org.ublk.Runner1.xml on one D-Bus connection.
#ifndef UBLK_RUNNER_DBUS_OBJECTS_H
#define UBLK_RUNNER_DBUS_OBJECTS_H

#include <map>
#include <memory>
#include <string>

#include "dbus_methods.h"
#include "glib_ptr.h"

struct _UblkRunner1;

namespace ublk_runner {

// Control thread, which runs the thread-default main context of the constructor.
class DbusObjects {
 public:
  // Says whether the caller of a method may call it. On a thread of its own, so it may block.
  using Authorize = bool (*)(GDBusMethodInvocation* invocation);

  // Exports all that there is. `authorize` nullptr: whoever has the connection may call. Throws
  // std::runtime_error.
  DbusObjects(GDBusConnection* connection, DbusMethods& methods, Authorize authorize);
  ~DbusObjects();
  DbusObjects(const DbusObjects&) = delete;
  DbusObjects& operator=(const DbusObjects&) = delete;

  // Takes over what the runner's devices are now; what differs is signalled.
  void refresh();

 private:
  class DeviceObject;

  DbusMethods& methods_;
  const Authorize authorize_;
  const GlibRef<GDBusObjectManagerServer> manager_;
  const GlibRef<_UblkRunner1> runner_;
  std::map<std::string, std::unique_ptr<DeviceObject>> devices_;  // by name
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DBUS_OBJECTS_H
