// SPDX-License-Identifier: MIT
//
// What D-Bus clients ask of a bus before they talk to a service. On the runner's socket there is no
// bus, only the runner; but gdbus, busctl and libdbus take any address for that of one, and begin
// with Hello().
#ifndef UBLK_RUNNER_SOCKET_BUS_H
#define UBLK_RUNNER_SOCKET_BUS_H

#include <gio/gio.h>

namespace ublk_runner {

// Answers for the object /org/freedesktop/DBus as a bus would whose only service has the name
// `service`, a string that lasts. Calls reach the service under whatever name. Signals have no
// sender: who waits for those of a name gets none. As long as the connection lives; calls are taken
// in the thread-default main context. Throws std::runtime_error.
void act_as_bus(GDBusConnection* connection, const char* service);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SOCKET_BUS_H
