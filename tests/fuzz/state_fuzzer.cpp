// SPDX-License-Identifier: MIT
// What a runner has left for the next one.
#include <config.h>
#include <state_store.h>

#include <memory>

#include "input.h"
#include "test_data.h"

using namespace ublk_runner;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const test::TempDir folder("/dev/shm");
  static StateStore store(folder.path());
  folder.write("disk.json", fuzz::Input(data, size).rest());
  const StateStore::Contents contents = StateStore::look(folder.path());
  fuzz::require(contents.devices.size() + contents.findings.size() == 1,
                "a file is a device or a finding");
  for (const SavedDevice& device : contents.devices) {
    fuzz::require(device.name == "disk", "the name is the file's");
    store.save(device);
    const StateStore::Contents again = store.load();
    fuzz::require(again.devices.size() == 1 && again.devices[0].settings == device.settings &&
                      again.devices[0].cookie == device.cookie &&
                      again.devices[0].id == device.id &&
                      again.devices[0].held_since == device.held_since,
                  "what is saved is loaded");
    std::map<std::string, Setting> settings;
    for (const auto& [key, value] : device.settings) settings[key] = {value, {}};
    try {
      device_from_settings(device.name, settings);
    } catch (const ConfigError&) {
    }
  }
  return 0;
}
