// SPDX-License-Identifier: MIT
//
// What the service manager is told, see sd_notify(3). Where there is none, or it has not asked for
// that (NOTIFY_SOCKET, WATCHDOG_USEC), nothing happens.
#ifndef UBLK_RUNNER_SERVICE_MANAGER_H
#define UBLK_RUNNER_SERVICE_MANAGER_H

#include <string>

#include "main_context.h"

namespace ublk_runner {

// Control thread, whose main loop keeps the watchdog quiet: a loop that does not turn has this
// process ended, and the next one goes on with its devices.
class ServiceManager {
 public:
  explicit ServiceManager(const MainContext& context);

  // `status` is a line for people.
  void ready(const std::string& status) const;
  void reloading() const;  // ready() ends it
  void stopping() const;

 private:
  void keep_watchdog_quiet();

  const MainContext context_;
  Milliseconds watchdog_{0};  // 0: none
  Source next_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SERVICE_MANAGER_H
