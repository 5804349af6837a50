// SPDX-License-Identifier: MIT
#include "options.h"

#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "option_value.h"

namespace ublk_runner {

namespace {

// What could stand in the section instead of an unknown key: the near ones, else all of the
// handler.
std::string known_keys(std::string_view key, std::span<const ublk_option> options) {
  std::vector<std::string_view> names;
  for (const ublk_option& option : options) names.emplace_back(option.name);
  const std::vector<std::string_view> own = names;
  for (const ublk_option& option : device_keys()) names.emplace_back(option.name);
  if (const std::string_view nearest = nearest_name(key, names); !nearest.empty())
    return "expected " + std::string(nearest);
  return own.empty() ? "it has none" : "expected " + join_words(own);
}

void find_unknown(const ublk_handler& handler, std::span<const ublk_option> options,
                  const DeviceConfig& device, std::vector<Finding>& findings) {
  for (const auto& [key, setting] : device.options) {
    bool known = false;
    for (const ublk_option& option : options) known = known || key == option.name;
    if (!known)
      add_finding(findings, setting.location,
                  "unknown option \"" + key + "\" of handler " + handler.name + ", " +
                      known_keys(key, options));
  }
}

}  // namespace

OptionValues OptionValues::parse(const ublk_handler& handler, const DeviceConfig& device) {
  std::vector<Finding> findings;
  OptionValues values = parse(handler, device, findings);
  if (!findings.empty()) throw ConfigError(std::move(findings));
  return values;
}

OptionValues OptionValues::parse(const ublk_handler& handler, const DeviceConfig& device,
                                 std::vector<Finding>& findings) {
  const std::span<const ublk_option> options(handler.options, handler.nr_options);
  find_unknown(handler, options, device, findings);

  OptionValues values;
  values.texts_.resize(options.size());
  values.values_.resize(options.size());
  for (size_t i = 0; i < options.size(); ++i) {
    const ublk_option& option = options[i];
    const auto setting = device.options.find(option.name);
    const bool is_given = setting != device.options.end();
    if (!is_given && option.default_value == nullptr) {
      if (option.flags & UBLK_OPTION_REQUIRED)
        add_finding(findings, device.location,
                    "device \"" + device.name + "\" needs \"" + option.name +
                        "\", an option of handler " + handler.name);
      continue;
    }
    values.texts_[i] = is_given ? setting->second.value : option.default_value;
    try {
      values.values_[i] = parse_option_value(option, values.texts_[i]);
    } catch (const std::invalid_argument& e) {
      add_finding(findings, is_given ? setting->second.location : device.location,
                  std::string(option.name) + ": " + e.what());
    }
  }
  return values;
}

}  // namespace ublk_runner
