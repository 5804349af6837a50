// SPDX-License-Identifier: MIT
#include "ctl/command.h"

namespace ublk_ctl {

std::span<const Command> commands() {
  static const std::vector<Command> kCommands = [] {
    std::vector<Command> all = device_commands();
    all.push_back(stats_command());
    all.push_back(top_command());
    all.push_back(handlers_command());
    all.push_back(features_command());
    all.push_back(doctor_command());
    all.push_back(gc_command());
    return all;
  }();
  return kCommands;
}

std::span<const OptionSpec> common_options() {
  static constexpr OptionSpec kOptions[] = {
      {"json", nullptr, "Write JSON, for programs"},
      {"socket", "PATH", "The runner's socket (default: " UBLK_STATE_DIR "/bus)"},
      {"system", nullptr, "Reach the runner by the system bus instead"},
  };
  return kOptions;
}

}  // namespace ublk_ctl
