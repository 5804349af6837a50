// SPDX-License-Identifier: MIT
//
// A device's handler is closed and opened anew, perhaps another one, while its I/O is held.
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "log.h"
#include "managed_device.h"

namespace ublk_runner {

// The next runner must go on with the storage that is written to from now on: it is told before
// anything is dispatched. If that fails, the device is held, without a handler.
Task<> ManagedDevice::attach_and_save(DeviceConfig config) {
  const uint64_t sectors_before = params_.basic.dev_sectors;
  co_await attach_handler(config, nullptr, NewSize::kTakenIn);
  std::swap(config_, config);
  std::exception_ptr failure;
  try {
    save_state();
    co_return;
  } catch (...) {
    failure = std::current_exception();
  }
  std::swap(config_, config);
  try {
    co_await detach_handler();
  } catch (const std::exception& e) {
    log(LogLevel::kError, name(), "%s", e.what());
  }
  co_await restore_size(sectors_before);
  std::rethrow_exception(failure);
}

// A restart has left it without a handler; the old one is opened again as soon as it can be.
void ManagedDevice::keep_held(const std::string& cause) {
  trouble_ = cause;
  log(LogLevel::kError, name(), "held, without a handler: %s", trouble_.c_str());
  tasks_.start(reattach());
}

Task<> ManagedDevice::restart(std::function<void(DeviceConfig&)> change) {
  const auto permit = co_await operations_.acquire();
  if (!is_up()) throw std::runtime_error(std::string("it is ") + state_name());
  if (is_volatile_)
    throw std::runtime_error("its data would be lost: handler " + config_.handler +
                             " keeps it in this process");
  if (kernel_has_handlers_buffers())
    throw std::runtime_error("the kernel uses the handler's buffers while the device lives");
  // With each try another thread would hang in it.
  if (instance_ == nullptr && !handler_job_.expired())
    throw std::runtime_error("its handler has not returned from an earlier open yet");
  DeviceConfig config = config_;
  change(config);

  save_state();  // what can't be saved afterwards would be undone by the next runner
  const auto began = std::chrono::steady_clock::now();
  std::shared_ptr<HandlerLibrary> old_library;
  if (instance_ != nullptr) {
    old_library = instance_->library();
    const bool drained = co_await hold();
    if (!drained) throw std::runtime_error("the handler does not answer its requests");
    try {
      co_await detach_handler();
    } catch (const std::exception& e) {
      keep_held(e.what());
      throw;
    }
  }
  std::exception_ptr failure;
  try {
    co_await attach_and_save(config);
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure && old_library != nullptr) {
    try {
      co_await attach_handler(config_, old_library, NewSize::kLater);
    } catch (const std::exception& e) {
      keep_held(e.what());
      std::rethrow_exception(failure);
    }
  }
  if (failure && instance_ == nullptr) std::rethrow_exception(failure);
  go_on();
  if (failure) std::rethrow_exception(failure);
  log(LogLevel::kInfo, name(), "restarted, its I/O was held for %lld ms",
      static_cast<long long>(
          std::chrono::duration_cast<Milliseconds>(std::chrono::steady_clock::now() - began)
              .count()));
}

}  // namespace ublk_runner
