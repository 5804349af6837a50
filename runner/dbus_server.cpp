// SPDX-License-Identifier: MIT
#include "dbus_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "block_signals.h"
#include "log.h"
#include "socket_bus.h"

namespace ublk_runner {

namespace {

constexpr mode_t kSocketMode = 0600;

bool is_trusted(GCredentials* credentials) {
  if (credentials == nullptr) return false;
  const uid_t user = g_credentials_get_unix_user(credentials, nullptr);
  return user != static_cast<uid_t>(-1) && (user == 0 || user == geteuid());
}

// The kernel vouches for who has connected. On a thread of GLib's.
gboolean on_authorize_peer(GDBusAuthObserver*, GIOStream*, GCredentials* credentials, gpointer) {
  return is_trusted(credentials);
}

gboolean on_allow_mechanism(GDBusAuthObserver*, const char* mechanism, gpointer) {
  return std::strcmp(mechanism, "EXTERNAL") == 0;
}

}  // namespace

DbusServer::DbusServer(Runner& runner, Reloader& reloader, const std::string& config_file,
                       const std::string& socket, bool use_system_bus)
    : runner_(runner),
      methods_(runner, reloader, config_file, [this] { refresh(); }),
      self_(std::make_shared<DbusServer*>(this)) {
  const BlockSignals block;  // on the threads that GLib makes
  runner_.when_changed([this] { runner_changed(); });
  try {
    listen(socket);
  } catch (const std::exception& e) {
    log(LogLevel::kError, {}, "no commands can be taken at %s: %s", socket.c_str(), e.what());
  }
  if (!use_system_bus) return;
  system_bus_ = std::make_shared<SystemBus>(
      runner_.context(), kDbusName,
      [this](GDBusConnection* connection) {
        try {
          system_objects_ = std::make_unique<DbusObjects>(connection, methods_, sender_is_trusted);
        } catch (const std::exception& e) {
          log(LogLevel::kError, {}, "no commands can be taken on the system bus: %s", e.what());
        }
      },
      [this] { system_objects_.reset(); });
  system_bus_->start();
}

DbusServer::~DbusServer() {
  runner_.when_changed(nullptr);
  *self_ = nullptr;
  system_objects_.reset();
  system_bus_.reset();
  if (server_ != nullptr) {
    g_signal_handlers_disconnect_by_data(server_.get(), this);
    g_dbus_server_stop(server_.get());
  }
  for (Peer& peer : peers_) {
    g_signal_handler_disconnect(peer.connection.get(), peer.closed_handler);
    peer.objects.reset();
    g_dbus_connection_close(peer.connection.get(), nullptr, nullptr, nullptr);
  }
}

// -------------------------------------------------------------------- socket --

void DbusServer::listen(const std::string& socket) {
  if (unlink(socket.c_str()) != 0 && errno != ENOENT)
    throw std::runtime_error(strerrordesc_np(errno));
  const GlibText escaped(g_dbus_address_escape_value(socket.c_str()));
  const GlibText guid(g_dbus_generate_guid());
  const GlibRef<GDBusAuthObserver> observer(g_dbus_auth_observer_new());
  g_signal_connect(observer.get(), "authorize-authenticated-peer", G_CALLBACK(on_authorize_peer),
                   nullptr);
  g_signal_connect(observer.get(), "allow-mechanism", G_CALLBACK(on_allow_mechanism), nullptr);
  GlibError error;
  server_.reset(g_dbus_server_new_sync((std::string("unix:path=") + escaped.get()).c_str(),
                                       G_DBUS_SERVER_FLAGS_NONE, guid.get(), observer.get(),
                                       nullptr, &error));
  if (server_ == nullptr) throw std::runtime_error(error.text());
  if (chmod(socket.c_str(), kSocketMode) != 0) throw std::runtime_error(strerrordesc_np(errno));
  g_signal_connect(
      server_.get(), "new-connection",
      G_CALLBACK(+[](GDBusServer*, GDBusConnection* connection, gpointer self) {
        return static_cast<gboolean>(static_cast<DbusServer*>(self)->on_new_connection(connection));
      }),
      this);
  g_dbus_server_start(server_.get());
}

// False: it is closed.
bool DbusServer::on_new_connection(GDBusConnection* connection) {
  if (!is_trusted(g_dbus_connection_get_peer_credentials(connection))) {
    log(LogLevel::kWarning, {}, "a command socket's client is neither root nor this user: refused");
    return false;
  }
  try {
    auto objects = std::make_unique<DbusObjects>(connection, methods_, nullptr);
    act_as_bus(connection, kDbusName);
    const gulong handler =
        g_signal_connect(connection, "closed",
                         G_CALLBACK(+[](GDBusConnection* closed, gboolean, GError*, gpointer self) {
                           static_cast<DbusServer*>(self)->on_closed(closed);
                         }),
                         this);
    peers_.push_back({share(connection), handler, std::move(objects)});
  } catch (const std::exception& e) {
    log(LogLevel::kError, {}, "a command socket's client can't be served: %s", e.what());
    return false;
  }
  return true;
}

// In a signal of the connection, which must not be destroyed there.
void DbusServer::on_closed(GDBusConnection* connection) {
  runner_.context().post([self = self_, connection] {
    if (*self == nullptr) return;
    std::list<Peer>& peers = (*self)->peers_;
    const auto peer = std::find_if(peers.begin(), peers.end(), [connection](const Peer& p) {
      return p.connection.get() == connection;
    });
    if (peer == peers.end()) return;
    g_signal_handler_disconnect(connection, peer->closed_handler);
    peer->objects.reset();
    peers.erase(peer);
  });
}

// ------------------------------------------------------------------- changes --

// In the middle of an operation, and often several times in a row.
void DbusServer::runner_changed() {
  if (std::exchange(refresh_posted_, true)) return;
  runner_.context().post([self = self_] {
    if (*self == nullptr) return;
    (*self)->refresh_posted_ = false;
    (*self)->refresh();
  });
}

void DbusServer::refresh() {
  for (Peer& peer : peers_) peer.objects->refresh();
  if (system_objects_ != nullptr) system_objects_->refresh();
}

}  // namespace ublk_runner
