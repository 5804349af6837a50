// SPDX-License-Identifier: MIT
#ifndef UBLK_CHECK_COMMAND_LINE_H
#define UBLK_CHECK_COMMAND_LINE_H

#include <string>
#include <vector>

#include "check.h"

namespace ublk_check {

// How ublk-handler-check(1) ends. Part of its interface.
enum ExitStatus {
  kExitOk = 0,         // nothing was found
  kExitUsage = 1,      // wrong arguments: nothing was checked
  kExitFound = 2,      // the handler is wrong somewhere
  kExitForbidden = 3,  // this machine does not allow io_uring: nothing was checked
};

// The arguments of ublk-handler-check(1).
struct CommandLine {
  std::string handler;
  Settings settings;
  std::vector<const Check*> checks;  // those to run
  uint64_t seed = 1;
  bool keeps_data = true;
  std::chrono::seconds request_limit{10};
  std::chrono::seconds check_limit{300};
  bool json = false;
  bool list = false;
  bool version = false;
};

// Throws std::invalid_argument, a text for the user. --help is answered here, by its text on stdout
// and the end of the process.
CommandLine parse_command_line(int argc, char** argv);

}  // namespace ublk_check

#endif  // UBLK_CHECK_COMMAND_LINE_H
