// SPDX-License-Identifier: MIT
#include "reload.h"

#include <exception>
#include <utility>

#include "log.h"

namespace ublk_runner {

Reloader::Reloader(Runner& runner, std::string config_file, std::optional<std::string> handler_dir,
                   bool config_has_errors)
    : runner_(runner),
      config_file_(std::move(config_file)),
      handler_dir_(std::move(handler_dir).value_or("")),
      config_has_errors_(config_has_errors) {}

Task<Runner::Applied> Reloader::reload() {
  const auto turn = co_await turn_.acquire();
  if (events_.begins) events_.begins();
  std::optional<Runner::Applied> applied;
  std::exception_ptr failure;
  try {
    applied = co_await read_and_apply();
  } catch (...) {
    failure = std::current_exception();
  }
  if (events_.has_ended) events_.has_ended();
  if (failure) std::rethrow_exception(failure);
  co_return std::move(*applied);
}

Task<CheckedConfig> Reloader::read() const {
  const auto reading = runner_.jobs().run(
      [file = config_file_, dir = handler_dir_] { return check_config(file, dir); });
  co_return co_await reading;
}

// The libraries are held until all is applied, so that they are loaded once.
Task<Runner::Applied> Reloader::read_and_apply() {
  CheckedConfig checked = co_await read();
  config_has_errors_ = !checked.findings.empty();
  for (const Finding& finding : checked.findings)
    log(LogLevel::kError, {}, "%s: %s", to_string(finding.location).c_str(), finding.text.c_str());
  if (config_has_errors_) {
    log(LogLevel::kError, {}, "the configuration has errors: nothing is changed");
    throw ConfigError(std::move(checked.findings));
  }
  if (events_.has_read) events_.has_read(checked.config);
  Runner::Applied applied = co_await runner_.apply(std::move(checked.config));
  log(LogLevel::kInfo, {}, "configuration read, changes: %zu, failed or refused: %zu",
      applied.done.size(), applied.failed.size());
  co_return applied;
}

void Reloader::trigger() {
  triggered_ = true;
  if (!running_triggered_) tasks_.start(run_triggered());
}

Task<> Reloader::run_triggered() {
  running_triggered_ = true;
  while (std::exchange(triggered_, false)) {
    try {
      co_await reload();
    } catch (const ConfigError&) {
      // Is logged.
    } catch (const std::exception& e) {
      log(LogLevel::kError, {}, "the configuration is not applied: %s", e.what());
    }
  }
  running_triggered_ = false;
}

Task<std::vector<std::string>> Reloader::dry_run() {
  CheckedConfig checked = co_await read();
  if (!checked.findings.empty()) throw ConfigError(std::move(checked.findings));
  std::vector<std::string> lines;
  for (const Change& change : runner_.changes(checked.config)) lines.push_back(to_string(change));
  co_return lines;
}

}  // namespace ublk_runner
