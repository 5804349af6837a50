// SPDX-License-Identifier: MIT
//
// What the methods of org.ublk.Runner1 do, whatever connection they come from.
#ifndef UBLK_RUNNER_DBUS_METHODS_H
#define UBLK_RUNNER_DBUS_METHODS_H

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "async.h"
#include "glib_ptr.h"
#include "reload.h"
#include "runner.h"

namespace ublk_runner {

class PersistentDevice;

inline constexpr char kDbusName[] = "org.ublk.Runner1";
inline constexpr char kDbusPath[] = "/org/ublk/Runner1";

std::string device_object_path(const std::string& name);

// Each call answers its invocation, whose reference it takes: with the method's values or an error,
// when the operation has ended. Calls run side by side. Control thread.
class DbusMethods {
 public:
  // `before_reply` is called before the answer to what may have changed something: what the caller
  // looks at next must be up to date.
  // `config_file`: where devices are kept for good.
  DbusMethods(Runner& runner, Reloader& reloader, std::string config_file,
              std::function<void()> before_reply);
  // Calls that have not been answered get an error. Only when the runner has stopped, since the
  // operations end halfway.
  ~DbusMethods() = default;
  DbusMethods(const DbusMethods&) = delete;
  DbusMethods& operator=(const DbusMethods&) = delete;

  void add(GDBusMethodInvocation* invocation, std::string name,
           std::map<std::string, std::string> settings, bool persist);
  void reload(GDBusMethodInvocation* invocation, bool dry_run);
  void remove(GDBusMethodInvocation* invocation, std::string name, bool force);
  void remove_persistent(GDBusMethodInvocation* invocation, std::string name, bool force);
  void resize(GDBusMethodInvocation* invocation, std::string name, uint64_t size);
  void restart(GDBusMethodInvocation* invocation, std::string name);
  void get_statistics(GDBusMethodInvocation* invocation, std::string name);

  const Runner& runner() const { return runner_; }
  const std::string& config_file() const { return config_file_; }

 private:
  class AddedName;
  class Invocation;
  enum class Effect : uint8_t { kChanges, kReads };
  Task<> answer(Invocation invocation, Task<Variant> work, Effect effect = Effect::kChanges);
  Task<Variant> run_add(std::string name, std::map<std::string, std::string> settings,
                        bool persist);
  Task<> commit(std::string name, std::shared_ptr<PersistentDevice> file);
  Task<Variant> run_reload(bool dry_run);
  Task<> run_remove_persistent(std::string name, bool force);
  Task<Variant> run_get_statistics(std::string name);
  static Task<Variant> without_value(Task<> work);

  Runner& runner_;
  Reloader& reloader_;
  const std::string config_file_;
  const std::function<void()> before_reply_;
  std::set<std::string> added_names_;  // of devices that become part of the configuration
  TaskSet tasks_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DBUS_METHODS_H
