// SPDX-License-Identifier: MIT
//
// The life of the process once its configuration is known: start, serve, reload and stop as asked.
#ifndef UBLK_RUNNER_SERVICE_H
#define UBLK_RUNNER_SERVICE_H

#include <functional>
#include <optional>
#include <string>

#include "command_line.h"
#include "config_check.h"
#include "config_watch.h"
#include "dbus_server.h"
#include "exit_status.h"
#include "reload.h"
#include "runner.h"
#include "service_manager.h"
#include "statistics_file.h"

namespace ublk_runner {

// What came of a start, as the process tells it when it ends, or goes into the background.
// `config_has_errors`: only devices that were left have been started.
ExitStatus status_of_start(const StartSummary& summary, bool config_has_errors);

// Runs on the thread that makes it, in GLib's default main context.
class Service {
 public:
  // Throws ublk::Error: no driver, no permission; std::runtime_error: another runner.
  Service(CheckedConfig checked, const CommandLine& line);

  // Starts the devices, serves them until SIGTERM or SIGINT, and removes them, or leaves them to
  // the next runner. A further signal while that is under way says what is waited for. The
  // configuration is taken in again on SIGHUP and when its files change. `ready` is called once all
  // devices are up or have failed, unless all have or a signal came before; with kExitOk or
  // kExitSomeFailed.
  ExitStatus run(std::function<void(ExitStatus)> ready);

 private:
  void on_started(const StartSummary& summary);
  void on_signal(const char* name);
  void on_hangup();
  void reload();
  void use(const Config& config);
  void watch_config();
  void use_statistics(const Config& config);
  void tell_ready() const;
  void stop();
  void report_stop() const;

  const CommandLine line_;
  CheckedConfig checked_;
  Runner runner_;
  ServiceManager manager_;
  Reloader reloader_;
  std::optional<ConfigWatch> watch_;
  std::optional<DbusServer> dbus_;
  std::optional<StatisticsFile> statistics_file_;
  const std::unique_ptr<GMainLoop, decltype(&g_main_loop_unref)> loop_;
  std::function<void(ExitStatus)> ready_;
  ExitStatus status_ = kExitOk;
  bool started_ = false;
  bool reload_wanted_ = false;  // while the start is under way
  bool stopping_ = false;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SERVICE_H
