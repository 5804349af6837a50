// SPDX-License-Identifier: MIT
#include "ctl/runner_client.h"

#include <algorithm>

#include "dbus_methods.h"
#include "statistics_variant.h"

namespace ublk_ctl {

namespace {

using ublk_runner::GlibError;
using ublk_runner::GlibText;
using ublk_runner::own_variant;
using ublk_runner::Variant;

constexpr char kInterface[] = "org.ublk.Runner1";
constexpr char kDeviceInterface[] = "org.ublk.Runner1.Device";
constexpr char kErrorPrefix[] = "org.ublk.Runner1.Error.";

ExitStatus status_of(const GlibError& error) {
  const GlibText remote(g_dbus_error_get_remote_error(error.get()));
  std::string name = remote == nullptr ? "" : remote.get();
  if (name.starts_with(kErrorPrefix)) name.erase(0, sizeof(kErrorPrefix) - 1);
  if (name == "NotFound") return kExitNotFound;
  if (name == "InUse") return kExitInUse;
  if (name == "org.freedesktop.DBus.Error.AccessDenied" ||
      name == "org.freedesktop.DBus.Error.AuthFailed" ||
      error.is(G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
    return kExitNotPermitted;
  if (name == "org.freedesktop.DBus.Error.ServiceUnknown" ||
      name == "org.freedesktop.DBus.Error.NameHasNoOwner" ||
      error.is(G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
      error.is(G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
      error.is(G_IO_ERROR, G_IO_ERROR_CLOSED))
    return kExitNoRunner;
  return kExitFailed;
}

std::string text_of(const GlibError& error) {
  if (error.get() == nullptr) return "unknown error";
  g_dbus_error_strip_remote_error(error.get());
  return error.get()->message;
}

[[noreturn]] void fail(const GlibError& error, const std::string& where) {
  const ExitStatus status = status_of(error);
  std::string text = text_of(error);
  if (status == kExitNoRunner) text = "no runner answers at " + where + ": " + text;
  if (status == kExitNotPermitted) text = where + ": not permitted, root is needed: " + text;
  throw CommandError(status, text);
}

std::vector<std::string> to_strings(GVariant* array) {
  std::vector<std::string> texts;
  GVariantIter iter;
  g_variant_iter_init(&iter, array);
  const char* text;
  while (g_variant_iter_next(&iter, "&s", &text) != FALSE) texts.emplace_back(text);
  return texts;
}

// Properties of an interface, a{sv}.
Json properties(GVariant* dictionary) {
  Json json = Json::object();
  GVariantIter iter;
  g_variant_iter_init(&iter, dictionary);
  const char* name;
  GVariant* value;
  while (g_variant_iter_next(&iter, "{&sv}", &name, &value) != FALSE) {
    json[snake_case(name)] = to_json(value);
    g_variant_unref(value);
  }
  return json;
}

}  // namespace

std::string snake_case(const std::string& name) {
  std::string text;
  for (const char c : name) {
    if (g_ascii_isupper(c) && !text.empty()) text += '_';
    text += g_ascii_tolower(c);
  }
  return text;
}

Json to_json(GVariant* value) {
  switch (g_variant_classify(value)) {
    case G_VARIANT_CLASS_BOOLEAN:
      return g_variant_get_boolean(value) != FALSE;
    case G_VARIANT_CLASS_UINT32:
      return g_variant_get_uint32(value);
    case G_VARIANT_CLASS_UINT64:
      return g_variant_get_uint64(value);
    case G_VARIANT_CLASS_STRING:
    case G_VARIANT_CLASS_OBJECT_PATH:
      return g_variant_get_string(value, nullptr);
    case G_VARIANT_CLASS_VARIANT:
      return to_json(Variant(g_variant_get_variant(value)).get());
    default:
      break;
  }
  if (g_variant_is_container(value) == FALSE)
    throw CommandError(kExitFailed, std::string("unexpected type of a value: ") +
                                        g_variant_get_type_string(value));
  const bool is_object = g_variant_is_of_type(value, G_VARIANT_TYPE_DICTIONARY) != FALSE;
  Json json = is_object ? Json::object() : Json::array();
  for (size_t i = 0; i < g_variant_n_children(value); ++i) {
    const Variant child(g_variant_get_child_value(value, i));
    if (!is_object) {
      json.push_back(to_json(child.get()));
      continue;
    }
    const Variant key(g_variant_get_child_value(child.get(), 0));
    const Variant content(g_variant_get_child_value(child.get(), 1));
    json[g_variant_get_string(key.get(), nullptr)] = to_json(content.get());
  }
  return json;
}

RunnerClient::RunnerClient(const Call& call) {
  GlibError error;
  GlibText address;
  int flags = G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT;
  if (call.has("system")) {
    if (call.has("socket")) throw CommandError(kExitUsage, "expected one of --socket and --system");
    where_ = "the system bus";
    bus_name_ = ublk_runner::kDbusName;
    flags |= G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION;
    address.reset(g_dbus_address_get_for_bus_sync(G_BUS_TYPE_SYSTEM, nullptr, &error));
    if (address == nullptr) fail(error, where_);
  } else {
    where_ = call.option("socket", std::string(UBLK_STATE_DIR "/") + ublk_runner::kBusSocketName);
    const GlibText path(g_dbus_address_escape_value(where_.c_str()));
    address.reset(g_strconcat("unix:path=", path.get(), nullptr));
  }
  connection_.reset(g_dbus_connection_new_for_address_sync(
      address.get(), static_cast<GDBusConnectionFlags>(flags), nullptr, nullptr, &error));
  if (connection_ == nullptr) fail(error, where_);
}

// Operations are bounded by the runner, which knows how long a handler may take.
Variant RunnerClient::call(const std::string& path, const char* interface, const char* method,
                           GVariant* arguments, const char* reply_type) {
  GlibError error;
  Variant reply(g_dbus_connection_call_sync(
      connection_.get(), bus_name_, path.c_str(), interface, method, arguments,
      G_VARIANT_TYPE(reply_type), G_DBUS_CALL_FLAGS_NO_AUTO_START, G_MAXINT, nullptr, &error));
  if (reply == nullptr) fail(error, where_);
  return reply;
}

Json RunnerClient::runner() {
  const Variant reply = call(ublk_runner::kDbusPath, "org.freedesktop.DBus.Properties", "GetAll",
                             g_variant_new("(s)", kInterface), "(a{sv})");
  return properties(Variant(g_variant_get_child_value(reply.get(), 0)).get());
}

Json RunnerClient::devices() {
  const Variant reply = call(ublk_runner::kDbusPath, "org.freedesktop.DBus.ObjectManager",
                             "GetManagedObjects", nullptr, "(a{oa{sa{sv}}})");
  std::vector<Json> devices;
  const Variant objects(g_variant_get_child_value(reply.get(), 0));
  for (size_t i = 0; i < g_variant_n_children(objects.get()); ++i) {
    const Variant object(g_variant_get_child_value(objects.get(), i));
    const Variant interfaces(g_variant_get_child_value(object.get(), 1));
    const Variant device(
        g_variant_lookup_value(interfaces.get(), kDeviceInterface, G_VARIANT_TYPE_VARDICT));
    if (device != nullptr) devices.push_back(properties(device.get()));
  }
  std::sort(devices.begin(), devices.end(),
            [](const Json& a, const Json& b) { return a["name"] < b["name"]; });
  return devices;
}

Json RunnerClient::device(const std::string& name) {
  for (Json& device : devices())
    if (device["name"] == name) return device;
  throw CommandError(kExitNotFound, "there is no device \"" + name + '"');
}

std::string RunnerClient::add(const std::string& name,
                              const std::map<std::string, std::string>& settings, bool persist) {
  GVariantBuilder builder;
  g_variant_builder_init(&builder, G_VARIANT_TYPE("a{ss}"));
  for (const auto& [key, value] : settings)
    g_variant_builder_add(&builder, "{ss}", key.c_str(), value.c_str());
  const Variant reply = call(ublk_runner::kDbusPath, kInterface, "Add",
                             g_variant_new("(sa{ss}b)", name.c_str(), &builder, persist), "(os)");
  const char* path;
  g_variant_get(reply.get(), "(&o&s)", nullptr, &path);
  return path;
}

RunnerClient::Applied RunnerClient::reload(bool dry_run) {
  const Variant reply =
      call(ublk_runner::kDbusPath, kInterface, "Reload", g_variant_new("(b)", dry_run), "(asas)");
  const Variant done(g_variant_get_child_value(reply.get(), 0));
  const Variant failed(g_variant_get_child_value(reply.get(), 1));
  return {to_strings(done.get()), to_strings(failed.get())};
}

// The object of a device that there is not is D-Bus's "no such interface": asked before, it is
// told as what it is.
void RunnerClient::call_device(const std::string& name, const char* method, GVariant* arguments) {
  const Variant owned = own_variant(arguments);
  device(name);
  call(ublk_runner::device_object_path(name), kDeviceInterface, method, owned.get(), "()");
}

ublk_runner::DeviceStatistics RunnerClient::statistics(const std::string& name) {
  const Variant reply = call(ublk_runner::device_object_path(name), kDeviceInterface,
                             "GetStatistics", nullptr, "(a{sv})");
  return ublk_runner::statistics_from_variant(
      Variant(g_variant_get_child_value(reply.get(), 0)).get());
}

void RunnerClient::remove(const std::string& name, bool force, bool persist) {
  call_device(name, persist ? "RemovePersistent" : "Remove", g_variant_new("(b)", force));
}

void RunnerClient::resize(const std::string& name, uint64_t size) {
  call_device(name, "Resize", g_variant_new("(t)", guint64{size}));
}

void RunnerClient::restart(const std::string& name) {
  call_device(name, "Restart", g_variant_new("()"));
}

}  // namespace ublk_ctl
