// SPDX-License-Identifier: MIT
// Configuration files. What is read without a finding can be said again.
#include <config_keys.h>
#include <glib.h>

#include <vector>

#include "input.h"
#include "test_data.h"

using namespace ublk_runner;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const test::TempDir folder("/dev/shm");
  folder.write("conf", fuzz::Input(data, size).rest());
  std::vector<Finding> findings;
  const Config config = load_config(folder / "conf", findings);
  for (const Finding& finding : findings) {
    fuzz::require(!finding.text.empty() && finding.text.find('\n') == std::string::npos,
                  "a finding is one line");
    fuzz::require(g_utf8_validate(finding.text.c_str(), -1, nullptr) != FALSE,
                  "a finding is UTF-8");
  }
  if (!findings.empty()) return 0;
  for (const DeviceConfig& device : config.devices) {
    fuzz::require(is_device_name(device.name) && is_handler_name(device.handler), "names");
    const DeviceConfig again = device_from_settings(device.name, device.settings);
    fuzz::require(again.options.size() == device.options.size(), "the same options");
    for (const Key<DeviceConfig>& key : keys_of<DeviceConfig>())
      fuzz::require(key.is_same(again, device), "the same settings are the same device");
  }
  return 0;
}
