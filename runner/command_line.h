// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_COMMAND_LINE_H
#define UBLK_RUNNER_COMMAND_LINE_H

#include <optional>
#include <string>

#include "log.h"

namespace ublk_runner {

// The options of ublk-runner(8).
struct CommandLine {
  std::string config_file = UBLK_CONFIG_FILE;
  std::optional<std::string> handler_dir;  // absolute; over the configuration's
  std::string state_dir = UBLK_STATE_DIR;  // absolute
  std::optional<LogLevel> log_level;       // over the configuration's
  bool check_config = false;
  bool foreground = false;
  bool version = false;
};

// Throws std::invalid_argument, a text for the user. --help is answered here, by its text on stdout
// and the end of the process.
CommandLine parse_command_line(int argc, char** argv);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_COMMAND_LINE_H
