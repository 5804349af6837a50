// SPDX-License-Identifier: MIT
//
// All devices of this process.
#ifndef UBLK_RUNNER_RUNNER_H
#define UBLK_RUNNER_RUNNER_H

#include <ublk/driver.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async.h"
#include "config.h"
#include "control_commands.h"
#include "device_links.h"
#include "job_pool.h"
#include "managed_device.h"
#include "queue_thread.h"
#include "shared_pools.h"

namespace ublk_runner {

struct RunnerOptions {
  std::string handler_dir = UBLK_HANDLER_DIR;
  std::string link_dir = "/dev/ublk";
  ublk::Driver* driver = nullptr;  // nullptr: the kernel's
};

// What came of start().
struct StartSummary {
  struct Failure {
    std::string device;
    std::string cause;  // "what failed: why"
  };
  size_t started = 0;
  std::vector<Failure> failed;  // in the configuration's order
};

// Serves the devices of a configuration. It belongs to the control thread: the one that makes it
// and runs the main context, without which nothing here goes on.
class Runner {
 public:
  // Throws ublk::Error: no driver, no permission. `context` nullptr: GLib's default.
  explicit Runner(RunnerOptions options, GMainContext* context = nullptr);
  // After stop() has called back, or before start().
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // Starts every device, side by side. One that fails is logged with its cause, and holds up no
  // other. `done` is called from the main context. Once.
  void start(const Config& config, std::function<void(StartSummary)> done);

  // Removes every device, side by side, also while start() is under way: its devices then fail and
  // `done` of start() is called first. Each wait is bounded. `done` is called from the main
  // context. Once.
  void stop(std::function<void()> done);

  // The names of the devices that have been started and are not gone: what stop() waits for.
  std::vector<std::string> remaining() const;

 private:
  Task<> start_all(std::function<void(StartSummary)> done);
  Task<> start_device(ManagedDevice& device);
  Task<> stop_all(std::function<void()> done);
  void remove_lost(ManagedDevice& device);

  const MainContext context_;
  const RunnerOptions options_;
  const std::shared_ptr<JobPool> jobs_;
  std::shared_ptr<SharedPools> pools_;
  ControlCommands commands_;
  DeviceLinks links_;
  std::optional<QueueThreads> threads_;
  std::optional<DeviceServices> services_;
  std::vector<std::shared_ptr<ManagedDevice>> devices_;
  Completion<> started_;
  TaskSet tasks_;  // the first to go, since they refer to the rest
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RUNNER_H
