// SPDX-License-Identifier: MIT
//
// The options of a handler: what the configuration says, typed by the handler's table.
#ifndef UBLK_RUNNER_OPTIONS_H
#define UBLK_RUNNER_OPTIONS_H

#include <ublk/handler.h>

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"

namespace ublk_runner {

// One value for each option of a handler's table, in its order: what the configuration gave, else
// the default, else unset. Owns the texts, and moves without changing their addresses, so data()
// holds as long as the object or what it was moved to.
class OptionValues {
 public:
  // Throws ConfigError with every option that is unknown, ill-typed, out of range or missing. The
  // values of secret options are in no error.
  static OptionValues parse(const ublk_handler& handler, const DeviceConfig& device);
  // The same, for one who looks for errors elsewhere as well: appends what is wrong to `findings`;
  // what it concerns stays unset.
  static OptionValues parse(const ublk_handler& handler, const DeviceConfig& device,
                            std::vector<Finding>& findings);

  OptionValues(OptionValues&&) = default;
  OptionValues& operator=(OptionValues&&) = default;

  const ublk_option_value* data() const { return values_.data(); }
  uint32_t size() const { return static_cast<uint32_t>(values_.size()); }

 private:
  OptionValues() = default;

  std::vector<std::string> texts_;
  std::vector<ublk_option_value> values_;  // texts point into texts_
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_OPTIONS_H
