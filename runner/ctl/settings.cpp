// SPDX-License-Identifier: MIT
#include "ctl/settings.h"

#include <stdexcept>

#include "ctl/command.h"
#include "option_value.h"

namespace ublk_ctl {

std::map<std::string, std::string> parse_settings(std::span<const std::string> words) {
  std::map<std::string, std::string> settings;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0)
      throw CommandError(kExitUsage, "expected KEY=VALUE, not \"" + word + '"');
    const std::string key = word.substr(0, equals);
    if (!settings.try_emplace(key, word.substr(equals + 1)).second)
      throw CommandError(kExitUsage, "key \"" + key + "\" is given twice");
  }
  return settings;
}

uint64_t parse_size(const std::string& text) {
  constexpr ublk_option kSize = {.name = "SIZE",
                                 .type = UBLK_OPTION_SIZE,
                                 .flags = 0,
                                 .default_value = nullptr,
                                 .minimum = 1,
                                 .maximum = 0,
                                 .choices = nullptr,
                                 .help = ""};
  try {
    return ublk_runner::parse_option_value(kSize, text).number;
  } catch (const std::invalid_argument& e) {
    throw CommandError(kExitUsage, std::string("SIZE: ") + e.what());
  }
}

}  // namespace ublk_ctl
