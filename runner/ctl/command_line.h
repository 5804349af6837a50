// SPDX-License-Identifier: MIT
#ifndef UBLK_CTL_COMMAND_LINE_H
#define UBLK_CTL_COMMAND_LINE_H

#include <string>
#include <vector>

#include "ctl/command.h"

namespace ublk_ctl {

struct CommandLine {
  const Command* command;
  Call call;
};

// `words` without the program's name. Throws CommandError with kExitUsage. --help and --version are
// answered here, by their text on stdout and the end of the process.
CommandLine parse_command_line(std::vector<std::string> words);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_COMMAND_LINE_H
