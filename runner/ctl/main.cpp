// SPDX-License-Identifier: MIT
//
// ublkctl: see ublkctl(8).

#include <clocale>
#include <cstdio>
#include <exception>

#include "ctl/command_line.h"

int main(int argc, char** argv) {
  using namespace ublk_ctl;
  setlocale(LC_CTYPE, "");
  try {
    const CommandLine line = parse_command_line({argv + 1, argv + argc});
    const ExitStatus status = line.command->run(line.call);
    return fflush(stdout) == 0 ? status : kExitFailed;
  } catch (const CommandError& e) {
    fprintf(stderr, "ublkctl: %s\n", e.what());
    if (e.status() == kExitUsage) fputs("Try \"ublkctl --help\".\n", stderr);
    return e.status();
  } catch (const std::exception& e) {
    fprintf(stderr, "ublkctl: %s\n", e.what());
    return kExitFailed;
  }
}
