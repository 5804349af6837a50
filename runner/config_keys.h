// SPDX-License-Identifier: MIT
//
// The keys of the configuration: what each takes, the field that it is for, and what a reload does
// when it has changed. All else that depends on a key follows from its line in config_keys.cpp.
#ifndef UBLK_RUNNER_CONFIG_KEYS_H
#define UBLK_RUNNER_CONFIG_KEYS_H

#include <ublk/handler.h>

#include <cstdint>
#include <span>

#include "config.h"

namespace ublk_runner {

// What a reload does with another value.
enum class Reload : uint8_t {
  kTakesIn,  // that of a device's key by a restart of the device
  kRefuses,  // it is for the start of the runner, or for the kernel when it makes the device
};

// Of [runner], if Target is Config, or of [device NAME], if it is DeviceConfig.
template <class Target>
struct Key {
  ublk_option option;
  Reload reload;
  // The target's field. set() throws std::invalid_argument if the value, which fits the option, is
  // wrong all the same.
  void (*set)(Target& target, const ublk_option_value& value);
  void (*copy)(Target& to, const Target& from);
  bool (*is_same)(const Target& a, const Target& b);
};

template <class Target>
std::span<const Key<Target>> keys_of();
template <>
std::span<const Key<Config>> keys_of<Config>();
template <>
std::span<const Key<DeviceConfig>> keys_of<DeviceConfig>();

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_CONFIG_KEYS_H
