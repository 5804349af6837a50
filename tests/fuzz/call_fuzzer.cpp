// SPDX-License-Identifier: MIT
// Calls of all methods over D-Bus, with any arguments, in any order, by a client of a runner that
// serves devices of the in-process driver. Each call is answered, with what the interface says.
#include <dbus_server.h>
#include <dlfcn.h>
#include <gio/gio.h>
#include <glib_ptr.h>
#include <reload.h>
#include <runner.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fake/driver.h"
#include "input.h"
#include "test_data.h"

using namespace ublk_runner;

namespace {

constexpr char kDeviceInterface[] = "org.ublk.Runner1.Device";

void iterate_until(const bool& done, const char* what) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(15);
  while (!done) {
    g_main_context_iteration(nullptr, FALSE);
    fuzz::require(std::chrono::steady_clock::now() < end, what);
  }
}

// One for all inputs. It never ends.
class World {
 public:
  World() {
    std::filesystem::create_directory(folder_ / "handlers");
    // The others touch files that the input may name.
    std::filesystem::create_symlink(UBLK_HANDLER_NULL, folder_ / "handlers/handler_null.so");
    forget_files();
    runner_.emplace(options());
    reloader_.emplace(*runner_, folder_ / "conf", folder_ / "handlers");
    Config config = load_config(folder_ / "conf");
    config.handler_dir = folder_ / "handlers";
    bool started = false;
    runner_->start(config, [&](StartSummary) { started = true; });
    iterate_until(started, "the runner starts");
    server_.emplace(*runner_, *reloader_, folder_ / "conf", folder_ / "bus", false);
    connect();
  }

  struct Reply {
    Variant value;
    std::string error;  // its name; empty: it is no error
  };
  // An error of this side: the message can't be one.
  static constexpr char kNotSent[] = "not sent";

  Reply call(const std::string& path, const std::string& interface, const std::string& member,
             Variant arguments) {
    struct Pending {
      bool done = false;
      Reply reply;
    } pending;
    g_dbus_connection_call(
        client_.get(), nullptr, path.c_str(), interface.c_str(), member.c_str(), arguments.get(),
        nullptr, G_DBUS_CALL_FLAGS_NONE, G_MAXINT, nullptr,
        [](GObject* connection, GAsyncResult* result, gpointer data) {
          auto& to = *static_cast<Pending*>(data);
          GlibError error;
          to.reply.value.reset(
              g_dbus_connection_call_finish(G_DBUS_CONNECTION(connection), result, &error));
          if (to.reply.value == nullptr) {
            const GlibText name(g_dbus_error_get_remote_error(error.get()));
            to.reply.error = name != nullptr ? name.get() : kNotSent;
          }
          to.done = true;
        },
        &pending);
    iterate_until(pending.done, "each call is answered");
    fuzz::require(g_dbus_connection_is_closed(client_.get()) == FALSE, "the client is kept");
    return std::move(pending.reply);
  }

  std::vector<std::string> device_paths() const {
    std::vector<std::string> paths;
    for (const auto& device : runner_->devices())
      paths.push_back(device_object_path(device->name()));
    return paths;
  }

  void forget() {
    for (const std::string& path : device_paths()) {
      const Reply reply =
          call(path, kDeviceInterface, "Remove", own_variant(g_variant_new("(b)", TRUE)));
      fuzz::require(reply.error.empty(), "each device can be removed");
    }
    fuzz::require(driver_.nr_devices() == 0, "no device is left");
    forget_files();
  }

 private:
  RunnerOptions options() {
    RunnerOptions options;
    options.handler_dir = folder_ / "handlers";
    options.link_dir = folder_ / "links";
    options.driver = &driver_;
    return options;
  }

  void forget_files() {
    std::filesystem::remove_all(folder_ / "conf.d");
    folder_.write("conf", "[runner]\nio_threads = 1\n");
  }

  void connect() {
    struct Pending {
      bool done = false;
      GDBusConnection* connection = nullptr;
    } pending;
    const std::string address = "unix:path=" + (folder_ / "bus");
    g_dbus_connection_new_for_address(
        address.c_str(), G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, nullptr, nullptr,
        [](GObject*, GAsyncResult* result, gpointer data) {
          auto& to = *static_cast<Pending*>(data);
          to.connection = g_dbus_connection_new_for_address_finish(result, nullptr);
          to.done = true;
        },
        &pending);
    iterate_until(pending.done, "a client is let in");
    fuzz::require(pending.connection != nullptr, "a client is let in");
    client_.reset(pending.connection);
  }

  const test::TempDir folder_{"/dev/shm"};
  fake::Driver driver_;
  std::optional<Runner> runner_;
  std::optional<Reloader> reloader_;
  std::optional<DbusServer> server_;
  GlibRef<GDBusConnection> client_;
};

struct Method {
  const char* interface;
  const char* name;
  const char* type;
};
constexpr std::array<Method, 11> kMethods = {{
    {"org.ublk.Runner1", "Add", "(sa{ss}b)"},
    {"org.ublk.Runner1", "Reload", "(b)"},
    {kDeviceInterface, "Remove", "(b)"},
    {kDeviceInterface, "RemovePersistent", "(b)"},
    {kDeviceInterface, "Resize", "(t)"},
    {kDeviceInterface, "Restart", "()"},
    {kDeviceInterface, "GetStatistics", "()"},
    {"org.freedesktop.DBus.Properties", "Get", "(ss)"},
    {"org.freedesktop.DBus.Properties", "Set", "(ssv)"},
    {"org.freedesktop.DBus.Properties", "GetAll", "(s)"},
    {"org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "()"},
}};

// Arguments of the type, as they are on the wire.
Variant arguments(const char* type, const std::string& bytes) {
  const Variant raw(g_variant_ref_sink(g_variant_new_from_data(
      G_VARIANT_TYPE(type), bytes.data(), bytes.size(), FALSE, nullptr, nullptr)));
  return Variant(g_variant_get_normal_form(raw.get()));
}

bool is_documented(const std::string& error) {
  constexpr std::array kOwn = {"NotFound", "Exists",   "InUse", "InvalidConfig",
                               "Starting", "Stopping", "Failed"};
  for (const char* name : kOwn)
    if (error == std::string("org.ublk.Runner1.Error.") + name) return true;
  return error.rfind("org.freedesktop.DBus.Error.", 0) == 0;
}

// A call in the input: method, whose arguments are taken, object, and the arguments with their
// length.
void call_from(World& world, fuzz::Input& input) {
  const Method& method = kMethods[input.take<uint8_t>() % kMethods.size()];
  const Method& arguments_of = [&]() -> const Method& {
    const auto other = input.take<uint8_t>();
    return other < 230 ? method : kMethods[other % kMethods.size()];
  }();
  const auto object = input.take<uint8_t>();
  const std::string bytes = input.text(input.take<uint16_t>() % 1024);
  const std::vector<std::string> devices = world.device_paths();
  std::string path = kDbusPath;
  if (std::strcmp(method.interface, kDeviceInterface) == 0 || object >= 128)
    path = devices.empty() || object >= 250 ? device_object_path("none")
                                            : devices[object % devices.size()];
  if (devices.size() >= 4 && std::strcmp(method.name, "Add") == 0) return;
  const World::Reply reply =
      world.call(path, method.interface, method.name, arguments(arguments_of.type, bytes));
  if (reply.error == World::kNotSent) return;
  fuzz::require(reply.error.empty() || is_documented(reply.error), reply.error.c_str());
}

}  // namespace

// libFuzzer looks at the coverage of what was loaded once for ever: the handler stays.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  fuzz::require(dlopen(UBLK_HANDLER_NULL, RTLD_NOW | RTLD_NODELETE) != nullptr, "a handler");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto& world = *new World;
  fuzz::Input input(data, size);
  for (int calls = 0; calls < 8 && input.left() != 0; ++calls) call_from(world, input);
  world.forget();
  return 0;
}
