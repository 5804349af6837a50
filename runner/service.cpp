// SPDX-License-Identifier: MIT
#include "service.h"

#include <glib-unix.h>

#include <csignal>
#include <utility>

#include "log.h"

namespace ublk_runner {

namespace {

RunnerOptions runner_options(const Config& config) {
  RunnerOptions options;
  options.handler_dir = config.handler_dir;
  return options;
}

// Calls back in the default main context at each signal.
class SignalSource {
 public:
  SignalSource(int signal, std::function<void()> callback)
      : callback_(std::move(callback)), id_(g_unix_signal_add(signal, on_signal, this)) {}
  ~SignalSource() { g_source_remove(id_); }
  SignalSource(const SignalSource&) = delete;
  SignalSource& operator=(const SignalSource&) = delete;

 private:
  static gboolean on_signal(gpointer self) {
    static_cast<SignalSource*>(self)->callback_();
    return G_SOURCE_CONTINUE;
  }

  const std::function<void()> callback_;
  const guint id_;
};

}  // namespace

Service::Service(CheckedConfig checked)
    : checked_(std::move(checked)),
      runner_(runner_options(checked_.config)),
      loop_(g_main_loop_new(nullptr, FALSE), g_main_loop_unref) {}

ExitStatus Service::run(std::function<void(ExitStatus)> ready) {
  ready_ = std::move(ready);
  const SignalSource on_term(SIGTERM, [this] { on_signal("SIGTERM"); });
  const SignalSource on_int(SIGINT, [this] { on_signal("SIGINT"); });
  if (checked_.config.devices.empty())
    log(LogLevel::kWarning, {}, "the configuration has no device");
  runner_.start(checked_.config, [this](const StartSummary& summary) { on_started(summary); });
  g_main_loop_run(loop_.get());
  return status_;
}

void Service::on_started(const StartSummary& summary) {
  checked_.libraries.clear();
  if (stopping_) return;  // those that have not come up were interrupted, they did not fail
  if (!summary.failed.empty()) status_ = summary.started == 0 ? kExitNoDevice : kExitSomeFailed;
  log(summary.failed.empty() ? LogLevel::kInfo : LogLevel::kError, {},
      "devices served: %zu, failed: %zu", summary.started, summary.failed.size());
  if (status_ == kExitNoDevice)
    stop();
  else
    ready_(status_);
}

void Service::on_signal(const char* name) {
  if (stopping_) {
    report_stop();
    return;
  }
  log(LogLevel::kInfo, {}, "%s: stopping", name);
  stop();
}

void Service::stop() {
  stopping_ = true;
  runner_.stop([this] { g_main_loop_quit(loop_.get()); });
}

void Service::report_stop() const {
  std::string names;
  for (const std::string& device : runner_.remaining()) names += ' ' + device;
  log(LogLevel::kWarning, {}, "already stopping; still waited for:%s",
      names.empty() ? " the end of the I/O threads" : names.c_str());
}

}  // namespace ublk_runner
