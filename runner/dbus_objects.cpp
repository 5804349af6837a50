// SPDX-License-Identifier: MIT
#include "dbus_objects.h"

#include <ublk/abi.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "log.h"
#include "org.ublk.Runner1.h"

namespace ublk_runner {

namespace {

using ublk::abi::kFlagUserRecovery;
using ublk::abi::kFlagUserRecoveryFailIo;

gboolean on_authorize(GDBusInterfaceSkeleton*, GDBusMethodInvocation* invocation,
                      gpointer authorize) {
  if (reinterpret_cast<DbusObjects::Authorize>(authorize)(invocation)) return TRUE;
  g_dbus_method_invocation_return_error(invocation, G_DBUS_ERROR, G_DBUS_ERROR_ACCESS_DENIED,
                                        "root only");
  return FALSE;
}

void authorize_methods(gpointer skeleton, DbusObjects::Authorize authorize) {
  if (authorize != nullptr)
    g_signal_connect(skeleton, "g-authorize-method", G_CALLBACK(on_authorize),
                     reinterpret_cast<gpointer>(authorize));
}

std::map<std::string, std::string> to_map(GVariant* dictionary) {
  std::map<std::string, std::string> map;
  GVariantIter iter;
  g_variant_iter_init(&iter, dictionary);
  const char* key;
  const char* value;
  while (g_variant_iter_next(&iter, "{&s&s}", &key, &value) != FALSE) map[key] = value;
  return map;
}

// What the kernel does, not what was asked for.
const char* recovery_of(const ManagedDevice& device) {
  const uint64_t flags = device.info().flags;
  if ((flags & kFlagUserRecovery) == 0) return "none";
  return (flags & kFlagUserRecoveryFailIo) != 0 ? "fail-io" : "reissue";
}

gboolean on_add(UblkRunner1*, GDBusMethodInvocation* invocation, const char* name,
                GVariant* settings, gboolean persist, gpointer methods) {
  static_cast<DbusMethods*>(methods)->add(invocation, name, to_map(settings), persist != FALSE);
  return TRUE;
}

gboolean on_reload(UblkRunner1*, GDBusMethodInvocation* invocation, gboolean dry_run,
                   gpointer methods) {
  static_cast<DbusMethods*>(methods)->reload(invocation, dry_run != FALSE);
  return TRUE;
}

gboolean on_remove(UblkRunner1Device* device, GDBusMethodInvocation* invocation, gboolean force,
                   gpointer methods) {
  static_cast<DbusMethods*>(methods)->remove(invocation, ublk_runner1_device_get_name(device),
                                             force != FALSE);
  return TRUE;
}

gboolean on_remove_persistent(UblkRunner1Device* device, GDBusMethodInvocation* invocation,
                              gboolean force, gpointer methods) {
  static_cast<DbusMethods*>(methods)->remove_persistent(
      invocation, ublk_runner1_device_get_name(device), force != FALSE);
  return TRUE;
}

gboolean on_resize(UblkRunner1Device* device, GDBusMethodInvocation* invocation, guint64 size,
                   gpointer methods) {
  static_cast<DbusMethods*>(methods)->resize(invocation, ublk_runner1_device_get_name(device),
                                             size);
  return TRUE;
}

gboolean on_restart(UblkRunner1Device* device, GDBusMethodInvocation* invocation,
                    gpointer methods) {
  static_cast<DbusMethods*>(methods)->restart(invocation, ublk_runner1_device_get_name(device));
  return TRUE;
}

gboolean on_get_statistics(UblkRunner1Device* device, GDBusMethodInvocation* invocation,
                           gpointer methods) {
  static_cast<DbusMethods*>(methods)->get_statistics(invocation,
                                                     ublk_runner1_device_get_name(device));
  return TRUE;
}

}  // namespace

// ------------------------------------------------------------------- devices --

class DbusObjects::DeviceObject {
 public:
  DeviceObject(const std::string& name, DbusMethods& methods, Authorize authorize)
      : runner_(methods.runner()),
        object_(g_dbus_object_skeleton_new(device_object_path(name).c_str())),
        device_(ublk_runner1_device_skeleton_new()) {
    ublk_runner1_device_set_name(device_.get(), name.c_str());
    g_signal_connect(device_.get(), "handle-remove", G_CALLBACK(on_remove), &methods);
    g_signal_connect(device_.get(), "handle-remove-persistent", G_CALLBACK(on_remove_persistent),
                     &methods);
    g_signal_connect(device_.get(), "handle-resize", G_CALLBACK(on_resize), &methods);
    g_signal_connect(device_.get(), "handle-restart", G_CALLBACK(on_restart), &methods);
    g_signal_connect(device_.get(), "handle-get-statistics", G_CALLBACK(on_get_statistics),
                     &methods);
    authorize_methods(device_.get(), authorize);
    g_dbus_object_skeleton_add_interface(object_.get(), G_DBUS_INTERFACE_SKELETON(device_.get()));
  }

  GDBusObjectSkeleton* get() const { return object_.get(); }

  // Values that are as they were are not signalled.
  void update(const ManagedDevice& device) {
    UblkRunner1Device* d = device_.get();
    ublk_runner1_device_set_handler(d, device.config().handler.c_str());
    ublk_runner1_device_set_node(d, device.node().c_str());
    ublk_runner1_device_set_path(d, runner_.link_path(device.name()).c_str());
    ublk_runner1_device_set_state(d, device.state_name());
    ublk_runner1_device_set_trouble(d, escape_text(device.trouble()).c_str());
    ublk_runner1_device_set_size(d, device.size());
    ublk_runner1_device_set_queues(d, device.info().nr_hw_queues);
    ublk_runner1_device_set_queue_depth(d, device.info().queue_depth);
    ublk_runner1_device_set_max_io_size(d, device.info().max_io_buf_bytes);
    ublk_runner1_device_set_buffers(d, device.buffers());
    ublk_runner1_device_set_recovery(d, recovery_of(device));
    ublk_runner1_device_set_read_only(d, device.config().read_only);
    ublk_runner1_device_set_configured(d, device.configured());
    update_options(device);
  }

 private:
  void update_options(const ManagedDevice& device) {
    GVariantBuilder shown;
    g_variant_builder_init(&shown, G_VARIANT_TYPE("a{ss}"));
    std::vector<const char*> hidden;
    for (const auto& [key, setting] : device.config().settings)
      if (device.may_show(key))
        g_variant_builder_add(&shown, "{ss}", key.c_str(), setting.value.c_str());
      else
        hidden.push_back(key.c_str());
    hidden.push_back(nullptr);
    ublk_runner1_device_set_options(device_.get(), g_variant_builder_end(&shown));
    ublk_runner1_device_set_hidden_options(device_.get(), hidden.data());
  }

  const Runner& runner_;
  const GlibRef<GDBusObjectSkeleton> object_;
  const GlibRef<UblkRunner1Device> device_;
};

// ------------------------------------------------------------------- objects --

DbusObjects::DbusObjects(GDBusConnection* connection, DbusMethods& methods, Authorize authorize)
    : methods_(methods),
      authorize_(authorize),
      manager_(g_dbus_object_manager_server_new(kDbusPath)),
      runner_(ublk_runner1_skeleton_new()) {
  UblkRunner1* r = runner_.get();
  ublk_runner1_set_version(r, UBLK_RUNNER_VERSION);
  ublk_runner1_set_process_id(r, static_cast<guint>(getpid()));
  ublk_runner1_set_features(r, methods.runner().features());
  ublk_runner1_set_handler_directory(r, escape_text(methods.runner().handler_dir()).c_str());
  ublk_runner1_set_configuration_file(r, escape_text(methods.config_file()).c_str());
  g_signal_connect(r, "handle-add", G_CALLBACK(on_add), &methods);
  g_signal_connect(r, "handle-reload", G_CALLBACK(on_reload), &methods);
  authorize_methods(r, authorize);

  GlibError error;
  if (g_dbus_interface_skeleton_export(G_DBUS_INTERFACE_SKELETON(r), connection, kDbusPath,
                                       &error) == FALSE)
    throw std::runtime_error(error.text());
  refresh();
  g_dbus_object_manager_server_set_connection(manager_.get(), connection);
}

DbusObjects::~DbusObjects() {
  g_dbus_object_manager_server_set_connection(manager_.get(), nullptr);
  g_dbus_interface_skeleton_unexport(G_DBUS_INTERFACE_SKELETON(runner_.get()));
}

void DbusObjects::refresh() {
  std::erase_if(devices_, [this](const auto& entry) {
    if (methods_.runner().find(entry.first) != nullptr) return false;
    g_dbus_object_manager_server_unexport(manager_.get(), device_object_path(entry.first).c_str());
    return true;
  });
  for (const std::shared_ptr<ManagedDevice>& device : methods_.runner().devices()) {
    std::unique_ptr<DeviceObject>& object = devices_[device->name()];
    const bool is_new = object == nullptr;
    if (is_new) object = std::make_unique<DeviceObject>(device->name(), methods_, authorize_);
    object->update(*device);
    if (is_new) g_dbus_object_manager_server_export(manager_.get(), object->get());
  }
}

}  // namespace ublk_runner
