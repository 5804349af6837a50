// SPDX-License-Identifier: MIT
#include "dbus_methods.h"

#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "log.h"
#include "persistent_device.h"
#include "runner_error.h"
#include "statistics_variant.h"

namespace ublk_runner {

namespace {

struct DbusError {
  const char* name;
  std::string text;
};

const char* error_name(RunnerError::Kind kind) {
  switch (kind) {
    case RunnerError::Kind::kNotFound:
      return "org.ublk.Runner1.Error.NotFound";
    case RunnerError::Kind::kExists:
      return "org.ublk.Runner1.Error.Exists";
    case RunnerError::Kind::kInUse:
      return "org.ublk.Runner1.Error.InUse";
    case RunnerError::Kind::kStarting:
      return "org.ublk.Runner1.Error.Starting";
    case RunnerError::Kind::kStopping:
      break;
  }
  return "org.ublk.Runner1.Error.Stopping";
}

DbusError dbus_error(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const RunnerError& e) {
    return {error_name(e.kind()), e.what()};
  } catch (const ConfigError& e) {
    return {"org.ublk.Runner1.Error.InvalidConfig", e.what()};
  } catch (const std::exception& e) {
    return {"org.ublk.Runner1.Error.Failed", e.what()};
  }
}

// D-Bus takes UTF-8 alone, and texts of handlers and names of files may be anything. Lines stay.
std::string escape_lines(const std::string& text) {
  std::string escaped;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (begin != 0) escaped += '\n';
    escaped += escape_text(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
  }
  return escaped;
}

GVariant* string_array(const std::vector<std::string>& texts) {
  GVariantBuilder builder;
  g_variant_builder_init(&builder, G_VARIANT_TYPE_STRING_ARRAY);
  for (const std::string& text : texts)
    g_variant_builder_add(&builder, "s", escape_text(text).c_str());
  return g_variant_builder_end(&builder);
}

}  // namespace

// The path takes letters, digits and '_' alone.
std::string device_object_path(const std::string& name) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string path = std::string(kDbusPath) + "/devices/";
  for (const char c : name) {
    if (g_ascii_isalnum(c)) {
      path += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      path += '_';
      path += kDigits[byte >> 4];
      path += kDigits[byte & 15];
    }
  }
  return path;
}

// A call that is answered once, in any case.
class DbusMethods::Invocation {
 public:
  explicit Invocation(GDBusMethodInvocation* invocation) : invocation_(invocation) {}
  Invocation(Invocation&& other) noexcept
      : invocation_(std::exchange(other.invocation_, nullptr)) {}
  Invocation& operator=(Invocation&&) = delete;
  ~Invocation() {
    if (invocation_ != nullptr)
      fail({error_name(RunnerError::Kind::kStopping), "the runner has ended"});
  }

  void reply(const Variant& value) {
    g_dbus_method_invocation_return_value(std::exchange(invocation_, nullptr), value.get());
  }
  void fail(const DbusError& error) {
    g_dbus_method_invocation_return_dbus_error(std::exchange(invocation_, nullptr), error.name,
                                               escape_lines(error.text).c_str());
  }

 private:
  GDBusMethodInvocation* invocation_;
};

DbusMethods::DbusMethods(Runner& runner, Reloader& reloader, std::string config_file,
                         std::function<void()> before_reply)
    : runner_(runner),
      reloader_(reloader),
      config_file_(std::move(config_file)),
      before_reply_(std::move(before_reply)) {}

Task<> DbusMethods::answer(Invocation invocation, Task<Variant> work, Effect effect) {
  Variant value;
  std::exception_ptr failure;
  try {
    value = co_await work;
  } catch (...) {
    failure = std::current_exception();
  }
  if (effect == Effect::kChanges) before_reply_();
  if (failure)
    invocation.fail(dbus_error(failure));
  else
    invocation.reply(value);
}

Task<Variant> DbusMethods::without_value(Task<> work) {
  co_await work;
  co_return own_variant(g_variant_new("()"));
}

void DbusMethods::add(GDBusMethodInvocation* invocation, std::string name,
                      std::map<std::string, std::string> settings, bool persist) {
  tasks_.start(
      answer(Invocation(invocation), run_add(std::move(name), std::move(settings), persist)));
}

// Until the device is in the configuration, or has failed: two calls would write the same file.
class DbusMethods::AddedName {
 public:
  AddedName(std::set<std::string>& names, const std::string& name) : names_(names), name_(name) {
    if (!names_.insert(name_).second)
      throw RunnerError(RunnerError::Kind::kExists,
                        "a device \"" + name_ + "\" is being added already");
  }
  ~AddedName() { names_.erase(name_); }
  AddedName(const AddedName&) = delete;
  AddedName& operator=(const AddedName&) = delete;

 private:
  std::set<std::string>& names_;
  const std::string name_;
};

Task<Variant> DbusMethods::run_add(std::string name, std::map<std::string, std::string> settings,
                                   bool persist) {
  runner_.check_running();
  std::map<std::string, Setting> located;
  for (auto& [key, value] : settings) located[key] = {std::move(value), {name, 0}};
  DeviceConfig config = device_from_settings(name, located);
  // Before there is a file: it would be taken for that of the first one, and removed.
  runner_.refuse_second(name);
  // Files are read and written by jobs: they may be on one of our own disks.
  std::optional<AddedName> added_name;
  std::shared_ptr<PersistentDevice> file;
  if (persist) {
    added_name.emplace(added_names_, name);
    const auto making = runner_.jobs().run([path = config_file(), config] {
      return std::make_shared<PersistentDevice>(path, config);
    });
    file = co_await making;
  }
  const std::string path = co_await runner_.add(std::move(config), false);
  if (file != nullptr) co_await commit(name, file);
  log(LogLevel::kInfo, name, "added by a command%s", persist ? ", for good" : "");
  co_return own_variant(g_variant_new("(os)", device_object_path(name).c_str(), path.c_str()));
}

// If it can't be kept for good, the device goes again: who asked for both has neither.
Task<> DbusMethods::commit(std::string name, std::shared_ptr<PersistentDevice> file) {
  std::exception_ptr failure;
  try {
    // A reload that has read the files before would remove it again.
    const auto turn = co_await reloader_.turn();
    const auto committing = runner_.jobs().run([file] { file->commit(); });
    co_await committing;
    if (const auto device = runner_.find(name)) device->set_configured(true);
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return;
  try {
    co_await runner_.remove(name, false);
  } catch (const std::exception& e) {
    log(LogLevel::kError, name, "served, but not kept for good: %s", e.what());
  }
  std::rethrow_exception(failure);
}

void DbusMethods::reload(GDBusMethodInvocation* invocation, bool dry_run) {
  tasks_.start(answer(Invocation(invocation), run_reload(dry_run),
                      dry_run ? Effect::kReads : Effect::kChanges));
}

Task<Variant> DbusMethods::run_reload(bool dry_run) {
  runner_.check_running();
  Runner::Applied applied;
  if (dry_run)
    applied.done = co_await reloader_.dry_run();
  else
    applied = co_await reloader_.reload();
  co_return own_variant(
      g_variant_new("(@as@as)", string_array(applied.done), string_array(applied.failed)));
}

void DbusMethods::remove(GDBusMethodInvocation* invocation, std::string name, bool force) {
  log(LogLevel::kInfo, name, "to be removed by a command%s", force ? ", even if in use" : "");
  tasks_.start(
      answer(Invocation(invocation), without_value(runner_.remove(std::move(name), force))));
}

void DbusMethods::remove_persistent(GDBusMethodInvocation* invocation, std::string name,
                                    bool force) {
  log(LogLevel::kInfo, name, "to be removed by a command, for good%s",
      force ? ", even if in use" : "");
  tasks_.start(
      answer(Invocation(invocation), without_value(run_remove_persistent(std::move(name), force))));
}

// The file goes last: while the device is there its absence would be a change of the configuration.
Task<> DbusMethods::run_remove_persistent(std::string name, bool force) {
  // A reload that has read the files before would add it again.
  const auto turn = co_await reloader_.turn();
  runner_.get(name);  // another call may have removed both meanwhile
  const auto looking = runner_.jobs().run(
      [path = config_file(), name] { return persistent_device_file(path, name); });
  const std::string file = co_await looking;
  co_await runner_.remove(std::move(name), force);
  const auto removing = runner_.jobs().run([file] { remove_persistent_device_file(file); });
  co_await removing;
}

void DbusMethods::resize(GDBusMethodInvocation* invocation, std::string name, uint64_t size) {
  tasks_.start(
      answer(Invocation(invocation), without_value(runner_.resize(std::move(name), size))));
}

void DbusMethods::restart(GDBusMethodInvocation* invocation, std::string name) {
  tasks_.start(answer(Invocation(invocation), without_value(runner_.restart(std::move(name)))));
}

void DbusMethods::get_statistics(GDBusMethodInvocation* invocation, std::string name) {
  tasks_.start(answer(Invocation(invocation), run_get_statistics(std::move(name)), Effect::kReads));
}

Task<Variant> DbusMethods::run_get_statistics(std::string name) {
  const DeviceStatistics statistics = co_await runner_.statistics(std::move(name));
  co_return own_variant(g_variant_new("(@a{sv})", to_variant(statistics)));
}

}  // namespace ublk_runner
