// SPDX-License-Identifier: MIT
//
// ublk-handler-check: see ublk-handler-check(1).

#include <liburing.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "command_line.h"
#include "report.h"
#include "temporary_folder.h"

namespace {

using namespace ublk_check;

void print(const std::string& text) {
  fputs(text.c_str(), stdout);
  fflush(stdout);
}

ExitStatus list() {
  for (const Check& check : checks()) printf("%-14s %s\n", check.name, check.summary);
  return kExitOk;
}

// 0 or what io_uring_setup says.
int io_uring_error() {
  io_uring ring{};
  const int rc = io_uring_queue_init(8, &ring, 0);
  if (rc == 0) io_uring_queue_exit(&ring);
  return -rc;
}

std::vector<Checked> run_all(const CommandLine& line, const Subject& subject) {
  std::vector<Checked> all;
  for (const Check* check : line.checks) {
    const auto run = [&](const Reporter& reporter) {
      Context context(subject, reporter);
      check->run(context);
    };
    all.push_back({*check, run_in_child(run, line.check_limit)});
    if (!line.json) print(format_check(all.back()));
  }
  return all;
}

ExitStatus check(const CommandLine& line) {
  const Subject subject{HandlerFile(line.handler), line.settings, line.seed, line.keeps_data,
                        line.request_limit};
  try {
    device_config(subject.file, subject.settings);
  } catch (const ublk_runner::ConfigError& e) {
    throw std::invalid_argument(e.what());
  }
  if (const int error = io_uring_error(); error != 0) {
    fprintf(stderr,
            "ublk-handler-check: this machine does not allow io_uring (%s): nothing was "
            "checked\n",
            strerror(error));
    return kExitForbidden;
  }
  // What a check that crashes or is killed leaves behind is in here.
  const TemporaryFolder folder;
  setenv("TMPDIR", folder.path().c_str(), 1);
  const std::vector<Checked> all = run_all(line, subject);
  const size_t failed = nr_failed(all);
  if (line.json)
    print(format_json(subject, all));
  else if (failed == 0)
    print("nothing was found\n");
  else
    print(std::to_string(failed) + " of " + std::to_string(all.size()) +
          " checks failed, with --seed=" + std::to_string(line.seed) + '\n');
  return failed == 0 ? kExitOk : kExitFound;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const CommandLine line = parse_command_line(argc, argv);
    if (line.version) {
      print("ublk-handler-check " UBLK_RUNNER_VERSION "\n");
      return kExitOk;
    }
    return line.list ? list() : check(line);
  } catch (const std::invalid_argument& e) {
    fprintf(stderr, "ublk-handler-check: %s\nTry \"ublk-handler-check --help\".\n", e.what());
    return kExitUsage;
  } catch (const std::exception& e) {
    fprintf(stderr, "ublk-handler-check: %s\n", e.what());
    return kExitUsage;
  }
}
