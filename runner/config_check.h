// SPDX-License-Identifier: MIT
//
// All that can be known to be wrong with a configuration before any device is started.
#ifndef UBLK_RUNNER_CONFIG_CHECK_H
#define UBLK_RUNNER_CONFIG_CHECK_H

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "handler_library.h"

namespace ublk_runner {

struct CheckedConfig {
  Config config;                  // what is right in it
  std::vector<Finding> findings;  // what is wrong with the files and with the handlers' options
  // Handlers that can't be loaded, each at the first device that wants it. Its devices alone are
  // concerned, and their options could not be checked.
  std::vector<Finding> missing_handlers;
  // What was loaded: while it is held, loading it again costs nothing.
  std::vector<std::shared_ptr<HandlerLibrary>> libraries;
};

// Reads the configuration, and checks the options of each device against its handler's table.
// `handler_dir`, if not empty, replaces the configured one. Loads handlers, so it may block; it
// opens none, and needs neither root nor the driver.
CheckedConfig check_config(const std::string& file, const std::string& handler_dir);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_CONFIG_CHECK_H
