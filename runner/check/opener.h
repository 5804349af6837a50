// SPDX-License-Identifier: MIT
// Opens and closes instances, as often as one likes, without a device.
#ifndef UBLK_CHECK_OPENER_H
#define UBLK_CHECK_OPENER_H

#include <config.h>
#include <handler_instance.h>
#include <handler_library.h>
#include <main_context.h>
#include <shared_pools.h>

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace ublk_check {

class Opener {
 public:
  explicit Opener(std::shared_ptr<ublk_runner::HandlerLibrary> library)
      : library_(std::move(library)) {}

  const ublk_handler& handler() const { return library_->handler(); }

  // Throws std::runtime_error.
  std::unique_ptr<ublk_runner::HandlerInstance> open(const ublk_runner::DeviceConfig& device) {
    return std::make_unique<ublk_runner::HandlerInstance>(library_, device, false, pools_, [] {});
  }

  // Opens, fences and closes. The text for the user if that fails.
  std::optional<std::string> try_open(const ublk_runner::DeviceConfig& device) {
    try {
      const auto instance = open(device);
      instance->geometry();
      instance->fence(kFenceLimit);
      return std::nullopt;
    } catch (const std::exception& e) {
      return e.what();
    }
  }

 private:
  static constexpr ublk_runner::Milliseconds kFenceLimit{10000};

  const std::shared_ptr<ublk_runner::HandlerLibrary> library_;
  const std::shared_ptr<ublk_runner::SharedPools> pools_ =
      ublk_runner::SharedPools::make(ublk_runner::MainContext(), 64 << 20);
};

}  // namespace ublk_check

#endif  // UBLK_CHECK_OPENER_H
