// SPDX-License-Identifier: MIT
// The table of options.
#include <option_value.h>
#include <options.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace ublk_check {

using ublk_runner::DeviceConfig;
using ublk_runner::OptionValues;

namespace {

bool is_empty(const char* text) { return text == nullptr || *text == '\0'; }

// Texts that are no value of the option.
std::vector<std::string> wrong_values(const ublk_option& option) {
  std::vector<std::string> wrong = {""};
  const auto add_bounds = [&] {
    if (option.minimum > 0) wrong.push_back(std::to_string(option.minimum - 1));
    if (option.maximum != 0 && option.maximum != UINT64_MAX)
      wrong.push_back(std::to_string(option.maximum + 1));
    wrong.insert(wrong.end(), {"-1", "1.5", "many", "99999999999999999999999"});
  };
  switch (option.type) {
    case UBLK_OPTION_PATH:
      wrong.emplace_back("relative/path");
      break;
    case UBLK_OPTION_BOOL:
      wrong.emplace_back("perhaps");
      break;
    case UBLK_OPTION_INTEGER:
    case UBLK_OPTION_SIZE:
      add_bounds();
      break;
    case UBLK_OPTION_CHOICE:
      wrong.emplace_back("none of the words");
      break;
    default:
      break;
  }
  return wrong;
}

bool accepts(const ublk_handler& handler, const DeviceConfig& device) {
  try {
    OptionValues::parse(handler, device);
    return true;
  } catch (const ublk_runner::ConfigError&) {
    return false;
  }
}

DeviceConfig with(DeviceConfig device, const char* key, const std::string& value) {
  device.options[key] = {value, {}};
  return device;
}

}  // namespace

void check_options(Context& context) {
  const auto library = context.library();
  const ublk_handler& handler = library->handler();
  const DeviceConfig device = context.device();
  if (is_empty(handler.summary)) context.report().finding("the handler has no summary");
  for (uint32_t i = 0; i < handler.nr_options; ++i) {
    const ublk_option& option = handler.options[i];
    const std::string name = option.name;
    if (is_empty(option.help)) context.report().finding("option " + name + " has no help");
    for (const std::string& value : wrong_values(option))
      if (accepts(handler, with(device, option.name, value)))
        context.report().finding("option " + name + " takes \"" + value + '"');
    if ((option.flags & UBLK_OPTION_REQUIRED) == 0) continue;
    DeviceConfig without = device;
    without.options.erase(name);
    if (accepts(handler, without))
      context.report().finding("option " + name + " is required, and may be left out");
  }
  if (accepts(handler, with(device, "no_such_option", "1")))
    context.report().finding("an unknown option is taken");
  OptionValues::parse(handler, device);  // throws with the texts for the user
  context.report().note(std::string(handler.name) + ": " + handler.summary +
                        "; options: " + std::to_string(handler.nr_options));
}

}  // namespace ublk_check
