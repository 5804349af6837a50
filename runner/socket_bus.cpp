// SPDX-License-Identifier: MIT
#include "socket_bus.h"

#include <memory>
#include <stdexcept>
#include <string_view>

#include "glib_ptr.h"

namespace ublk_runner {

namespace {

constexpr const char* kBusName = "org.freedesktop.DBus";
constexpr const char* kBusPath = "/org/freedesktop/DBus";
constexpr const char* kClientName = ":1.1";  // of each client on its own connection
constexpr guint32 kAlreadyRunning = 2;       // DBUS_START_REPLY_ALREADY_RUNNING

// The part of the D-Bus specification's interface that clients need.
constexpr const char* kInterface = R"(<node><interface name="org.freedesktop.DBus">
  <method name="Hello"><arg type="s" direction="out"/></method>
  <method name="ListNames"><arg type="as" direction="out"/></method>
  <method name="NameHasOwner"><arg type="s" direction="in"/><arg type="b" direction="out"/></method>
  <method name="GetNameOwner"><arg type="s" direction="in"/><arg type="s" direction="out"/></method>
  <method name="StartServiceByName">
    <arg type="s" direction="in"/><arg type="u" direction="in"/><arg type="u" direction="out"/>
  </method>
  <method name="AddMatch"><arg type="s" direction="in"/></method>
  <method name="RemoveMatch"><arg type="s" direction="in"/></method>
</interface></node>)";

struct UnrefNodeInfo {
  void operator()(GDBusNodeInfo* info) const { g_dbus_node_info_unref(info); }
};

GVariant* names(const char* service) {
  const char* const all[] = {kBusName, service, kClientName, nullptr};
  return g_variant_new("(^as)", all);
}

// A call's first argument is the name that it is about.
void answer_about_name(std::string_view method, GVariant* arguments, const char* service,
                       GDBusMethodInvocation* invocation) {
  const char* name = nullptr;
  g_variant_get_child(arguments, 0, "&s", &name);
  const bool known = std::string_view(name) == kBusName || name == std::string_view(service) ||
                     name == std::string_view(kClientName);
  if (method == "NameHasOwner")
    g_dbus_method_invocation_return_value(invocation, g_variant_new("(b)", known ? TRUE : FALSE));
  else if (!known)
    g_dbus_method_invocation_return_error(invocation, G_DBUS_ERROR, G_DBUS_ERROR_NAME_HAS_NO_OWNER,
                                          "only %s is here", service);
  else if (method == "GetNameOwner")
    g_dbus_method_invocation_return_value(invocation, g_variant_new("(s)", name));
  else
    g_dbus_method_invocation_return_value(invocation, g_variant_new("(u)", kAlreadyRunning));
}

void on_call(GDBusConnection*, const char*, const char*, const char*, const char* method_name,
             GVariant* arguments, GDBusMethodInvocation* invocation, gpointer data) {
  const std::string_view method(method_name);
  const auto* service = static_cast<const char*>(data);
  if (method == "Hello")
    g_dbus_method_invocation_return_value(invocation, g_variant_new("(s)", kClientName));
  else if (method == "ListNames")
    g_dbus_method_invocation_return_value(invocation, names(service));
  else if (method == "AddMatch" || method == "RemoveMatch")
    g_dbus_method_invocation_return_value(invocation, nullptr);
  else
    answer_about_name(method, arguments, service, invocation);
}

}  // namespace

void act_as_bus(GDBusConnection* connection, const char* service) {
  static constexpr GDBusInterfaceVTable kCalls{on_call, nullptr, nullptr, {}};
  GlibError error;
  const std::unique_ptr<GDBusNodeInfo, UnrefNodeInfo> info(
      g_dbus_node_info_new_for_xml(kInterface, &error));
  if (info == nullptr ||
      g_dbus_connection_register_object(connection, kBusPath, info->interfaces[0], &kCalls,
                                        const_cast<char*>(service), nullptr, &error) == 0)
    throw std::runtime_error(error.text());
}

}  // namespace ublk_runner
