// SPDX-License-Identifier: MIT
// The arguments of Add over D-Bus, (sa{ss}b), as they are on the wire; a device that is added for
// good is the same in the file. Without a runner, so it is quick: call_fuzzer.cpp has one.
#include <config.h>
#include <glib.h>
#include <glib_ptr.h>
#include <persistent_device.h>
#include <runner_error.h>

#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>

#include "input.h"
#include "test_data.h"

using namespace ublk_runner;

namespace {

using VariantPointer = std::unique_ptr<GVariant, decltype(&g_variant_unref)>;

VariantPointer arguments(const std::string& bytes) {
  const VariantPointer raw(
      g_variant_ref_sink(g_variant_new_from_data(G_VARIANT_TYPE("(sa{ss}b)"), bytes.data(),
                                                 bytes.size(), FALSE, nullptr, nullptr)),
      g_variant_unref);
  return {g_variant_get_normal_form(raw.get()), g_variant_unref};
}

void make_permanent(const test::TempDir& folder, const DeviceConfig& device) {
  std::filesystem::remove_all(folder / "conf.d");
  try {
    PersistentDevice(folder / "conf", device).commit();
  } catch (const std::runtime_error&) {
    return;  // a file can't say it
  }
  const Config config = load_config(folder / "conf");
  fuzz::require(config.devices.size() == 1, "one device was added");
  const DeviceConfig& loaded = config.devices.front();
  fuzz::require(loaded.name == device.name && loaded.handler == device.handler, "names");
  fuzz::require(loaded.settings.size() == device.settings.size(), "no more settings, and no less");
  for (const auto& [key, setting] : device.settings)
    fuzz::require(loaded.settings.at(key).value == setting.value, "the same settings");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const test::TempDir folder("/dev/shm");
  folder.write("conf", "");
  const std::string bytes = fuzz::Input(data, size).rest();
  const VariantPointer call = arguments(bytes);
  const char* name;
  GVariant* dictionary;
  gboolean persist;
  g_variant_get(call.get(), "(&s@a{ss}b)", &name, &dictionary, &persist);
  const VariantPointer keep(dictionary, g_variant_unref);
  std::map<std::string, Setting> settings;
  GVariantIter iter;
  g_variant_iter_init(&iter, dictionary);
  const char* key;
  const char* value;
  while (g_variant_iter_next(&iter, "{&s&s}", &key, &value) != FALSE)
    settings[key] = {value, {name, 0}};
  try {
    const DeviceConfig device = device_from_settings(name, settings);
    fuzz::require(is_device_name(device.name) && is_handler_name(device.handler), "names");
    make_permanent(folder, device);
  } catch (const ConfigError&) {
  }
  return 0;
}
