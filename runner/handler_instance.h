// SPDX-License-Identifier: MIT
//
// One open instance of a handler: what a device's data comes from.
#ifndef UBLK_RUNNER_HANDLER_INSTANCE_H
#define UBLK_RUNNER_HANDLER_INSTANCE_H

#include <ublk/handler.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "handler_library.h"
#include "main_context.h"
#include "shared_pools.h"

// What handlers know as their device.
struct ublk_device {};

namespace ublk_runner {

// The calls of a handler's table that may block, as functions that throw std::runtime_error:
// "open: no such cluster". Threads: any that may block, one call at a time; size_changed and
// trouble_changed come from any thread at any time.
class HandlerInstance final : public ublk_device {
 public:
  // At most so many requests are on workers at once.
  static constexpr unsigned kDefaultWorkers = 16;

  // Opens `device` with a handler that has been loaded. `size_changed` is called, on any thread,
  // when the handler says so, and `trouble_changed` when trouble() has changed. `recovering`: an
  // instance before this one has served the device. Throws ConfigError for bad options.
  HandlerInstance(
      std::shared_ptr<HandlerLibrary> library, const DeviceConfig& device, bool recovering,
      std::shared_ptr<SharedPools> pools, std::function<void()> size_changed,
      std::function<void()> trouble_changed = [] {});
  // Closes it; no queue may be open. Waits for workers that have not quite returned from it.
  ~HandlerInstance();
  HandlerInstance(const HandlerInstance&) = delete;
  HandlerInstance& operator=(const HandlerInstance&) = delete;

  ublk_geometry geometry();
  void fence(Milliseconds timeout);

  const std::shared_ptr<HandlerLibrary>& library() const { return library_; }
  const ublk_handler& table() const { return library_->handler(); }
  void* get() const { return instance_; }
  const std::string& device_name() const { return device_name_; }
  const char* handler_name() const { return table().name; }

  // For an instance that is served by workers, before its queues are opened: makes its share of
  // them, `workers` threads at a time; 0: kDefaultWorkers. Throws std::system_error.
  void use_workers(unsigned workers);
  WorkerPool::Client* workers() { return workers_.has_value() ? &*workers_ : nullptr; }

  // Keeps `object` until the instance is closed.
  void keep(std::shared_ptr<void> object) { kept_.push_back(std::move(object)); }

  void size_changed() const { size_changed_(); }

  // What the handler says is wrong with the device; empty: nothing. Any thread.
  void set_trouble(std::string text);
  std::string trouble() const;

 private:
  const std::shared_ptr<SharedPools> pools_;
  const std::shared_ptr<HandlerLibrary> library_;
  const std::string device_name_;
  const std::function<void()> size_changed_;
  const std::function<void()> trouble_changed_;
  mutable std::mutex trouble_mutex_;
  std::string trouble_;
  void* instance_ = nullptr;
  std::vector<std::shared_ptr<void>> kept_;
  std::optional<WorkerPool::Client> workers_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_HANDLER_INSTANCE_H
