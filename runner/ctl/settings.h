// SPDX-License-Identifier: MIT
#ifndef UBLK_CTL_SETTINGS_H
#define UBLK_CTL_SETTINGS_H

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace ublk_ctl {

// "KEY=VALUE" each; the value may be empty and may have a '='. Throws CommandError with kExitUsage:
// no '=', no key, a key given twice.
std::map<std::string, std::string> parse_settings(std::span<const std::string> words);

// "16M" as in the configuration. Throws CommandError with kExitUsage.
uint64_t parse_size(const std::string& text);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_SETTINGS_H
