// SPDX-License-Identifier: MIT
#include "config_check.h"

#include <map>
#include <stdexcept>

#include "options.h"

namespace ublk_runner {

namespace {

// nullptr, after a finding, if the handler can't be loaded.
std::shared_ptr<HandlerLibrary> load_handler(const DeviceConfig& device, CheckedConfig& checked) {
  try {
    auto library = HandlerLibrary::load(checked.config.handler_dir, device.handler);
    checked.libraries.push_back(library);
    return library;
  } catch (const std::runtime_error& e) {
    add_finding(checked.missing_handlers, device.handler_location, e.what());
    return nullptr;
  }
}

}  // namespace

CheckedConfig check_config(const std::string& file, const std::string& handler_dir) {
  CheckedConfig checked;
  checked.config = load_config(file, checked.findings);
  if (!handler_dir.empty()) checked.config.handler_dir = handler_dir;

  std::map<std::string, std::shared_ptr<HandlerLibrary>> libraries;
  for (const DeviceConfig& device : checked.config.devices) {
    const auto [library, is_new] = libraries.try_emplace(device.handler);
    if (is_new) library->second = load_handler(device, checked);
    if (library->second != nullptr)
      OptionValues::parse(library->second->handler(), device, checked.findings);
  }
  sort_findings(checked.findings);
  return checked;
}

}  // namespace ublk_runner
