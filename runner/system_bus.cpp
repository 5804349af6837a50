// SPDX-License-Identifier: MIT
#include "system_bus.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "log.h"

namespace ublk_runner {

namespace {

constexpr std::chrono::seconds kRetry{5};
constexpr int kAskLimitMs = 5000;

}  // namespace

SystemBus::SystemBus(const MainContext& context, std::string name,
                     std::function<void(GDBusConnection*)> connected, std::function<void()> closed)
    : context_(context),
      name_(std::move(name)),
      connected_(std::move(connected)),
      closed_(std::move(closed)),
      cancellable_(g_cancellable_new()) {}

SystemBus::~SystemBus() {
  g_cancellable_cancel(cancellable_.get());
  if (owner_ != 0) g_bus_unown_name(owner_);
  if (connection_ != nullptr) g_signal_handler_disconnect(connection_.get(), closed_handler_);
}

void SystemBus::start() { connect(); }

// Not g_bus_get(): a connection of that ends the process when the bus goes.
void SystemBus::connect() {
  GlibError error;
  const GlibText address(
      g_dbus_address_get_for_bus_sync(G_BUS_TYPE_SYSTEM, cancellable_.get(), &error));
  if (address == nullptr) {
    log(LogLevel::kDebug, {}, "no system bus: %s", error.text().c_str());
    return;
  }
  g_dbus_connection_new_for_address(
      address.get(),
      static_cast<GDBusConnectionFlags>(G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                                        G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION),
      nullptr, cancellable_.get(),
      [](GObject*, GAsyncResult* result, gpointer data) {
        const std::unique_ptr<std::weak_ptr<SystemBus>> self(
            static_cast<std::weak_ptr<SystemBus>*>(data));
        GlibError failure;
        GlibRef<GDBusConnection> connection(
            g_dbus_connection_new_for_address_finish(result, &failure));
        const std::shared_ptr<SystemBus> bus = self->lock();
        if (bus == nullptr) return;
        if (connection != nullptr) {
          bus->on_connected(connection.release());
        } else {
          log(LogLevel::kDebug, {}, "no system bus: %s", failure.text().c_str());
          bus->retry_later();
        }
      },
      new std::weak_ptr<SystemBus>(weak_from_this()));
}

// The objects are there before the name, so that nobody finds the name without them.
void SystemBus::on_connected(GDBusConnection* connection) {
  connection_.reset(connection);
  closed_handler_ = g_signal_connect(
      connection, "closed", G_CALLBACK(+[](GDBusConnection*, gboolean, GError*, gpointer self) {
        static_cast<SystemBus*>(self)->on_closed();
      }),
      this);
  connected_(connection);
  owner_ = g_bus_own_name_on_connection(
      connection, name_.c_str(), G_BUS_NAME_OWNER_FLAGS_NONE,
      [](GDBusConnection*, const gchar* name, gpointer) {
        log(LogLevel::kInfo, {}, "on the system bus as %s", name);
      },
      [](GDBusConnection*, const gchar* name, gpointer) {
        log(LogLevel::kInfo, {},
            "the system bus does not give the name %s: another runner has it, or the bus has no "
            "policy for it",
            name);
      },
      nullptr, nullptr);
}

// In a signal of the connection, which must not be destroyed there.
void SystemBus::on_closed() {
  log(LogLevel::kInfo, {}, "the system bus has gone");
  context_.post([weak = weak_from_this()] {
    const std::shared_ptr<SystemBus> bus = weak.lock();
    if (bus == nullptr || bus->connection_ == nullptr) return;
    g_signal_handler_disconnect(bus->connection_.get(), bus->closed_handler_);
    g_bus_unown_name(std::exchange(bus->owner_, 0));
    bus->closed_();
    bus->connection_.reset();
    bus->retry_later();
  });
}

void SystemBus::retry_later() {
  retry_ = context_.after(kRetry, [this] { connect(); });
}

bool sender_is_trusted(GDBusMethodInvocation* invocation) {
  GlibError error;
  const Variant answer(g_dbus_connection_call_sync(
      g_dbus_method_invocation_get_connection(invocation), "org.freedesktop.DBus",
      "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetConnectionUnixUser",
      g_variant_new("(s)", g_dbus_method_invocation_get_sender(invocation)), G_VARIANT_TYPE("(u)"),
      G_DBUS_CALL_FLAGS_NONE, kAskLimitMs, nullptr, &error));
  if (answer == nullptr) return false;
  guint32 user;
  g_variant_get(answer.get(), "(u)", &user);
  return user == 0 || user == geteuid();
}

}  // namespace ublk_runner
