// SPDX-License-Identifier: MIT
//
// Takes in a configuration that has changed while its devices are served.
#ifndef UBLK_RUNNER_RELOAD_H
#define UBLK_RUNNER_RELOAD_H

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "async.h"
#include "config_check.h"
#include "runner.h"

namespace ublk_runner {

// Control thread. Between the end of Runner::start() and Runner::stop().
class Reloader {
 public:
  // What goes with a reload; each may be empty.
  struct Events {
    std::function<void()> begins;
    std::function<void(const Config&)> has_read;  // a configuration without an error
    std::function<void()> has_ended;              // well or not
  };

  // `handler_dir`, if given, replaces the configured one. `config_has_errors`: that of the start.
  Reloader(Runner& runner, std::string config_file, std::optional<std::string> handler_dir,
           bool config_has_errors = false);

  void set_events(Events events) { events_ = std::move(events); }

  // Reads the configuration and applies it. One at a time: a further one waits for its turn, and
  // reads anew. Throws ConfigError, after its findings have been logged: nothing has changed.
  Task<Runner::Applied> reload();

  // While it is kept no reload is under way.
  Task<Semaphore::Permit> turn() { return turn_.acquire(); }

  // A reload() that nobody waits for. One that is asked for while another is under way comes after
  // it, however often it is.
  void trigger();

  // Whether the configuration had any when it was last read to be applied.
  bool config_has_errors() const { return config_has_errors_; }

  // What reload() would do, a line each. Throws ConfigError.
  Task<std::vector<std::string>> dry_run();

 private:
  Task<CheckedConfig> read() const;
  Task<Runner::Applied> read_and_apply();
  Task<> run_triggered();

  Runner& runner_;
  const std::string config_file_;
  const std::string handler_dir_;  // empty: the configured one
  bool config_has_errors_;
  Events events_;
  Semaphore turn_{1};
  bool triggered_ = false;
  bool running_triggered_ = false;
  TaskSet tasks_;  // the first to go
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RELOAD_H
