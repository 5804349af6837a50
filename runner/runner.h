// SPDX-License-Identifier: MIT
//
// All devices of this process.
#ifndef UBLK_RUNNER_RUNNER_H
#define UBLK_RUNNER_RUNNER_H

#include <ublk/driver.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async.h"
#include "config.h"
#include "control_commands.h"
#include "device_ids.h"
#include "device_links.h"
#include "device_users.h"
#include "job_pool.h"
#include "managed_device.h"
#include "queue_thread.h"
#include "shared_pools.h"
#include "state_store.h"

namespace ublk_runner {

struct RunnerOptions {
  std::string handler_dir = UBLK_HANDLER_DIR;
  std::string link_dir = "/dev/ublk";
  std::string state_dir;           // empty: no device outlives this process
  ublk::Driver* driver = nullptr;  // nullptr: the kernel's
  // Of a disk's node. Those of an in-process driver have none that this machine knows.
  std::function<std::vector<DeviceUser>(const std::string& node)> users = device_users;
  // Devices of a runner before this one are all that is served: for a configuration with errors.
  bool adopt_only = false;
  std::chrono::milliseconds open_limit{60'000};  // of a handler: a cluster's client has to find it
};

// What came of start().
struct StartSummary {
  struct Failure {
    std::string device;
    std::string cause;  // "what failed: why"
  };
  size_t started = 0;           // adopted ones among them
  size_t left = 0;              // failed ones of a runner before this one, whose I/O waits
  std::vector<Failure> failed;  // in the configuration's order
};

// What a configuration asks for that is not so yet.
struct Change {
  enum class Kind { kSet, kAdd, kRemove, kRestart, kRefuse };
  Kind kind;
  std::string device;   // or "[runner]"
  std::string detail;   // kSet, kRestart: the keys; kRefuse: why
  DeviceConfig config;  // kAdd and kRestart
};
// "add disk0", "restart disk1: path, workers"
std::string to_string(const Change& change);

// Serves the devices of a configuration. It belongs to the control thread: the one that makes it
// and runs the main context, without which nothing here goes on.
//
// The operations below may run side by side; those of one device take turns. They throw RunnerError
// or another std::runtime_error, with a text for the operator.
class Runner {
 public:
  // Throws ublk::Error: no driver, no permission; std::runtime_error: another runner has the state.
  // `context` nullptr: GLib's default.
  explicit Runner(RunnerOptions options, GMainContext* context = nullptr);
  // After stop() has called back, or before start().
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // Goes on with the devices that a runner before this one has left, then starts every other device
  // of the configuration, side by side. One that fails is logged with its cause, and holds up no
  // other; one that could not be gone on with is tried again until stop(). What the configuration
  // says otherwise of an adopted one is then applied. `done` is called from the main context. Once.
  void start(const Config& config, std::function<void(StartSummary)> done);

  // Ends the service of every device, side by side, also while start() is under way: its devices
  // then fail and `done` of start() is called first. Devices that are in use are left to the next
  // runner. Each wait is bounded. `done` is called from the main context. Once.
  void stop(std::function<void()> done);

  // Adds a device and returns its path, "/dev/ublk/NAME", when it is usable.
  Task<std::string> add(DeviceConfig config, bool configured);
  // Removes a device; unless `force`d refuses one that is in use, and says by whom.
  Task<> remove(std::string name, bool force);
  // Holds the device's I/O, opens its handler anew, and goes on.
  Task<> restart(std::string name);
  // The same with another value of its option "size". Bytes.
  Task<> resize(std::string name, uint64_t size);

  Task<DeviceStatistics> statistics(std::string name) const;
  // Whether requests are counted and timed from now on. After start().
  void use_statistics(bool on);

  // What applying `config` would do. Keys of [runner] are a change of the device "[runner]":
  // kRefuse for those that only a start takes in, kSet for the others, which are the caller's to
  // put in force.
  std::vector<Change> changes(const Config& config) const;
  // Does it: one line for each change that succeeded or, in `failed`, did not.
  struct Applied {
    std::vector<std::string> done;
    std::vector<std::string> failed;
  };
  Task<Applied> apply(Config config);

  // Throws RunnerError before start() has ended, when devices may be missing that are about to be
  // adopted, and once stop() was called.
  void check_running() const;
  // The names of the devices that have been started and are not gone: what stop() waits for.
  std::vector<std::string> remaining() const;
  // Those that there are, in no order.
  const std::vector<std::shared_ptr<ManagedDevice>>& devices() const { return devices_; }
  std::shared_ptr<ManagedDevice> find(const std::string& name) const;  // nullptr: none
  std::shared_ptr<ManagedDevice> get(const std::string& name) const;   // throws RunnerError: none
  // Throws RunnerError: there is such a device.
  void refuse_second(const std::string& name) const;
  void refuse_hanging(const std::string& name);
  std::string link_path(const std::string& name) const { return options_.link_dir + '/' + name; }
  const std::string& handler_dir() const { return options_.handler_dir; }
  uint64_t features() const { return commands_.features(); }
  JobPool& jobs() const { return *jobs_; }
  const MainContext& context() const { return context_; }
  // Called after any change of the devices, their states or what they are.
  void when_changed(std::function<void()> changed) { changed_ = std::move(changed); }

 private:
  Task<> start_all(Config config, std::function<void(StartSummary)> done);
  Task<> adopt_all(StartSummary& summary);
  void count_late_takeovers(StartSummary& summary) const;
  Task<std::optional<ublk::abi::DevInfo>> look_for(SavedDevice saved);
  Task<> adopt_device(SavedDevice saved);
  Task<> take_over(std::shared_ptr<ManagedDevice> device, SavedDevice saved,
                   ublk::abi::DevInfo info);
  Task<> take_over_later(std::shared_ptr<ManagedDevice> device, SavedDevice saved);
  Task<> remove_dead(SavedDevice saved);
  void forget(const SavedDevice& saved);
  Task<> start_device(std::shared_ptr<ManagedDevice> device);
  void take_live_settings(const Config& config);
  Task<> apply_change(Change change);
  Task<> stop_all(std::function<void()> done);
  Task<> end_lost(std::shared_ptr<ManagedDevice> device);
  std::function<void()> when_lost(const std::shared_ptr<ManagedDevice>& device);
  void drop(const std::shared_ptr<ManagedDevice>& device);
  void changed() const;

  const MainContext context_;
  const RunnerOptions options_;
  std::optional<StateStore> state_;
  const std::shared_ptr<JobPool> jobs_;
  std::shared_ptr<SharedPools> pools_;
  ControlCommands commands_;
  DeviceIds ids_;
  DeviceLinks links_;
  std::optional<QueueThreads> threads_;
  Semaphore looks_{4};
  std::optional<DeviceServices> services_;
  Config settings_;  // those of [runner] that are in force; without devices
  std::vector<std::shared_ptr<ManagedDevice>> devices_;
  std::set<std::string> died_;  // devices that ended with their runner; not started since
  std::map<std::string, std::weak_ptr<void>>
      hanging_;  // calls of handlers of devices that are gone
  bool stopping_ = false;
  std::function<void()> changed_;
  Completion<> started_;
  TaskSet tasks_;  // the first to go, since they refer to the rest
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RUNNER_H
