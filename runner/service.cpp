// SPDX-License-Identifier: MIT
#include "service.h"

#include <glib-unix.h>

#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "log.h"
#include "process_age.h"

namespace ublk_runner {

namespace {

RunnerOptions runner_options(const CheckedConfig& checked, const std::string& state_dir) {
  RunnerOptions options;
  options.state_dir = state_dir;
  options.handler_dir = checked.config.handler_dir;
  options.adopt_only = !checked.findings.empty();
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

// Reloads read it when the process has left its working directory.
CommandLine with_absolute_config(CommandLine line) {
  line.config_file = std::filesystem::absolute(line.config_file).string();
  return line;
}

}  // namespace

ExitStatus status_of_start(const StartSummary& summary, bool config_has_errors) {
  if (summary.failed.empty() && !config_has_errors) return kExitOk;
  if (summary.started != 0) return kExitSomeFailed;
  if (summary.left != 0) return kExitTryAgain;
  return config_has_errors ? kExitUsage : kExitNoDevice;
}

Service::Service(CheckedConfig checked, const CommandLine& line)
    : line_(with_absolute_config(line)),
      checked_(std::move(checked)),
      runner_(runner_options(checked_, line_.state_dir)),
      manager_(runner_.context()),
      reloader_(runner_, line_.config_file, line_.handler_dir, !checked_.findings.empty()),
      loop_(g_main_loop_new(nullptr, FALSE), g_main_loop_unref) {
  reloader_.set_events({[this] { manager_.reloading(); },
                        [this](const Config& config) { use(config); }, [this] { tell_ready(); }});
}

ExitStatus Service::run(std::function<void(ExitStatus)> ready) {
  ready_ = std::move(ready);
  const SignalSource on_term(SIGTERM, [this] { on_signal("SIGTERM"); });
  const SignalSource on_int(SIGINT, [this] { on_signal("SIGINT"); });
  const SignalSource on_hup(SIGHUP, [this] { on_hangup(); });
  if (checked_.config.devices.empty())
    log(LogLevel::kWarning, {}, "the configuration has no device");
  // What changes during the start is read after it.
  if (checked_.config.watch) watch_config();
  runner_.start(checked_.config, [this](const StartSummary& summary) { on_started(summary); });
  // The bus would give its one name to any runner, and after a restart to another one than before.
  std::error_code error;
  const bool use_system_bus = std::filesystem::equivalent(line_.state_dir, UBLK_STATE_DIR, error);
  dbus_.emplace(runner_, reloader_, line_.config_file, line_.state_dir + '/' + kBusSocketName,
                use_system_bus);
  g_main_loop_run(loop_.get());
  return status_;
}

void Service::on_started(const StartSummary& summary) {
  checked_.libraries.clear();
  if (stopping_) return;  // those that have not come up were interrupted, they did not fail
  status_ = status_of_start(summary, reloader_.config_has_errors());
  log(summary.failed.empty() ? LogLevel::kInfo : LogLevel::kError, {},
      "devices served: %zu, failed: %zu, %lld ms after the start", summary.started,
      summary.failed.size(), static_cast<long long>(process_age().count()));
  if (status_ != kExitOk && status_ != kExitSomeFailed) {
    stop();
    return;
  }
  started_ = true;
  ready_(status_);
  tell_ready();
  use(checked_.config);
  if (reload_wanted_) reload();
}

void Service::tell_ready() const {
  size_t live = 0;
  for (const auto& device : runner_.devices())
    if (device->state() == ManagedDevice::State::kLive) ++live;
  const size_t others = runner_.devices().size() - live;
  manager_.ready("devices served: " + std::to_string(live) +
                 (others == 0 ? "" : ", not served: " + std::to_string(others)) +
                 (reloader_.config_has_errors() ? "; the configuration has errors" : ""));
}

// What can change while devices are served.
void Service::use(const Config& config) {
  set_log_level(line_.log_level.value_or(config.log_level));
  use_statistics(config);
  if (!config.watch)
    watch_.reset();
  else if (!watch_)
    watch_config();
}

void Service::watch_config() {
  watch_.emplace(runner_.context(), line_.config_file, [this] {
    log(LogLevel::kInfo, {}, "the configuration has changed");
    reload();
  });
}

void Service::use_statistics(const Config& config) {
  runner_.use_statistics(config.statistics);
  const bool same = statistics_file_.has_value()
                        ? statistics_file_->path() == config.statistics_file &&
                              statistics_file_->interval() == config.statistics_interval
                        : config.statistics_file.empty();
  if (same) return;
  statistics_file_.reset();
  if (config.statistics_file.empty()) return;
  statistics_file_.emplace(runner_, config.statistics_file, config.statistics_interval);
  if (!config.statistics)
    log(LogLevel::kWarning, {}, "statistics_file: nothing is counted without statistics = true");
}

void Service::on_hangup() {
  log(LogLevel::kInfo, {}, "SIGHUP: reading the configuration");
  reload();
}

void Service::reload() {
  if (stopping_) return;
  if (started_)
    reloader_.trigger();
  else
    reload_wanted_ = true;
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
  watch_.reset();
  statistics_file_.reset();
  manager_.stopping();
  runner_.stop([this] { g_main_loop_quit(loop_.get()); });
}

void Service::report_stop() const {
  std::string names;
  for (const std::string& device : runner_.remaining()) names += ' ' + device;
  log(LogLevel::kWarning, {}, "already stopping; still waited for:%s",
      names.empty() ? " the end of the I/O threads" : names.c_str());
}

}  // namespace ublk_runner
