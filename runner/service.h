// SPDX-License-Identifier: MIT
//
// The life of the process once its configuration is known: start, serve, stop on a signal.
#ifndef UBLK_RUNNER_SERVICE_H
#define UBLK_RUNNER_SERVICE_H

#include <functional>

#include "config_check.h"
#include "exit_status.h"
#include "runner.h"

namespace ublk_runner {

// Runs on the thread that makes it, in GLib's default main context.
class Service {
 public:
  // Throws ublk::Error: no driver, no permission.
  explicit Service(CheckedConfig checked);

  // Starts the devices, serves them until SIGTERM or SIGINT, and removes them. A further signal
  // while that is under way says what is waited for. `ready` is called once all devices are up or
  // have failed, unless all have or a signal came before; with kExitOk or kExitSomeFailed.
  ExitStatus run(std::function<void(ExitStatus)> ready);

 private:
  void on_started(const StartSummary& summary);
  void on_signal(const char* name);
  void stop();
  void report_stop() const;

  CheckedConfig checked_;
  Runner runner_;
  const std::unique_ptr<GMainLoop, decltype(&g_main_loop_unref)> loop_;
  std::function<void(ExitStatus)> ready_;
  ExitStatus status_ = kExitOk;
  bool stopping_ = false;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SERVICE_H
