// SPDX-License-Identifier: MIT
//
// ublk-runner: see ublk-runner(8).

#include <fcntl.h>
#include <sys/prctl.h>
#include <ublk/error.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "background.h"
#include "command_line.h"
#include "config_check.h"
#include "exit_status.h"
#include "log.h"
#include "memory_lock.h"
#include "modules.h"
#include "service.h"
#include "state_store.h"

namespace {

using namespace ublk_runner;

// So that no descriptor that is opened later takes the place of stdin, stdout or stderr.
void open_standard_files() {
  int fd;
  do fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) close(fd);
}

CheckedConfig check(const CommandLine& line) {
  return check_config(line.config_file, line.handler_dir.value_or(""));
}

// --check-config: like a compiler, one "file:line: text" for each error.
ExitStatus report_config(const CommandLine& line) {
  CheckedConfig checked = check(line);
  auto& findings = checked.findings;
  findings.insert(findings.end(), checked.missing_handlers.begin(), checked.missing_handlers.end());
  sort_findings(findings);
  for (const Finding& finding : findings)
    fprintf(stderr, "%s: %s\n", to_string(finding.location).c_str(), finding.text.c_str());
  if (!findings.empty()) return kExitUsage;
  printf("%s: no errors; devices: %zu\n", line.config_file.c_str(), checked.config.devices.size());
  return kExitOk;
}

bool has_saved_devices(const std::string& state_dir) {
  try {
    return !StateStore::look(state_dir).devices.empty();
  } catch (const std::system_error&) {
    return false;
  }
}

// What is allocated here may not wait for this process's own disks to be written to. All its
// threads inherit that, those of handlers' libraries, too: each may hold what an I/O thread waits
// for. A container may refuse it; then it has to go without.
void allocate_without_own_disks() {
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    log(LogLevel::kDebug, {}, "PR_SET_IO_FLUSHER: %s",
        std::generic_category().message(errno).c_str());
}

ExitStatus serve(const CommandLine& line, std::optional<Background>& background) {
  CheckedConfig checked = check(line);
  for (const Finding& finding : checked.findings)
    log(LogLevel::kError, {}, "%s: %s", to_string(finding.location).c_str(), finding.text.c_str());
  if (!checked.findings.empty()) {
    // The I/O of devices that are waiting must not wait for whoever mends the file.
    if (!has_saved_devices(line.state_dir)) return kExitUsage;
    log(LogLevel::kError, {},
        "the configuration has errors: only devices that were left are served");
  }
  set_log_level(line.log_level.value_or(checked.config.log_level));
  if (checked.config.lock_memory) lock_memory();
  allocate_without_own_disks();
  load_ublk_module();
  Service service(std::move(checked), line);
  return service.run([&background](ExitStatus status) {
    if (background) background->detach(status);
  });
}

ExitStatus run(const CommandLine& line) {
  std::optional<Background> background;
  if (!line.foreground) background.emplace();
  // A client that has gone is an error of that write; a terminal that has gone is none at all.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);  // up to Service::run()
  // A write past RLIMIT_FSIZE is an EFBIG of that request, not the end of every device.
  signal(SIGXFSZ, SIG_IGN);
  try {
    return serve(line, background);
  } catch (const StateLocked& e) {
    log(LogLevel::kError, {}, "%s", e.what());
    return kExitTryAgain;
  } catch (const std::exception& e) {
    log(LogLevel::kError, {}, "%s", e.what());
    return kExitNoDevice;
  }
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_files();
  try {
    const CommandLine line = parse_command_line(argc, argv);
    if (line.version) {
      puts("ublk-runner " UBLK_RUNNER_VERSION);
      return kExitOk;
    }
    return line.check_config ? report_config(line) : run(line);
  } catch (const std::exception& e) {
    fprintf(stderr, "ublk-runner: %s\nTry \"ublk-runner --help\".\n", e.what());
    return kExitUsage;
  }
}
