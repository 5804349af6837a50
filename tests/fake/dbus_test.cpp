// SPDX-License-Identifier: MIT
// The runner as clients of its socket see and drive it, and who may be one.
#include <ctl/runner_client.h>
#include <gio/gio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "dbus_fixture.h"
#include "random_io.h"

namespace fake {
namespace {

TEST_F(DbusTest, TellsWhatTheRunnerAndItsDevicesAre) {
  with_client([this](RunnerClient& client) {
    const Json runner = client.runner();
    EXPECT_EQ(runner["version"], UBLK_RUNNER_VERSION);
    EXPECT_EQ(runner["process_id"], getpid());
    EXPECT_EQ(runner["configuration_file"], config());
    const Json devices = client.devices();
    ASSERT_EQ(devices.size(), 1u);
    const Json& device = devices[0];
    EXPECT_EQ(device["name"], "first");
    EXPECT_EQ(device["handler"], "null");
    EXPECT_EQ(device["state"], "live");
    EXPECT_EQ(device["size"], 8 << 20);
    EXPECT_EQ(device["queues"], 1);
    EXPECT_EQ(device["queue_depth"], 128);
    EXPECT_EQ(device["node"], "/dev/ublkb0");
    EXPECT_EQ(device["path"], dir_ + "/ublk/first");
    EXPECT_EQ(device["recovery"], "none");
    EXPECT_EQ(device["configured"], true);
    EXPECT_EQ(device["options"], (Json{{"handler", "null"}, {"size", "8M"}}));
  });
}

TEST_F(DbusTest, AddedDeviceIsServedRestartedAndRemoved) {
  with_client([this](RunnerClient& client) {
    EXPECT_EQ(client.add("disk.a-b", file_settings("disk"), false), dir_ + "/ublk/disk.a-b");
    EXPECT_EQ(client.device("disk.a-b")["state"], "live");
    EXPECT_EQ(client.device("disk.a-b")["configured"], false);
  });
  RandomIo io(driver().disk(1),
              {.depth = 16, .requests = kSanitized ? 2000u : 10000u, .max_sectors = 64});
  with_client([](RunnerClient& client) {
    for (int i = 0; i < 10; ++i) client.restart("disk.a-b");
  });
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
  with_client([](RunnerClient& client) {
    client.remove("disk.a-b", true, false);
    EXPECT_EQ(client.devices().size(), 1u);
  });
  EXPECT_EQ(driver().nr_devices(), 1u);
}

TEST_F(DbusTest, RefusalsSayWhyAndOfWhatKind) {
  with_client([this](RunnerClient& client) {
    const auto add = [&](const std::string& name, const Settings& settings) {
      return error_of([&] { client.add(name, settings, false); });
    };
    EXPECT_EQ(add("first", {{"handler", "null"}}).status(), ublk_ctl::kExitFailed);
    EXPECT_STREQ(add("first", {{"handler", "null"}}).what(), "there is a device \"first\" already");
    EXPECT_STREQ(add("x", {{"handler", "null"}, {"size", "many"}}).what(),
                 "x: size: expected a size of at least 4K in bytes, such as 4096, 512K or 20G, not "
                 "\"many\"");
    EXPECT_NE(std::string(add("x", {{"handler", "nul"}}).what()).find("No such file"),
              std::string::npos);
    EXPECT_NE(std::string(add("x", {}).what()).find("has no \"handler\""), std::string::npos);
    EXPECT_NE(std::string(add("../x", {{"handler", "null"}}).what()).find("expected [device NAME]"),
              std::string::npos);
    EXPECT_EQ(error_of([&] { client.remove("none", false, false); }).status(),
              ublk_ctl::kExitNotFound);
    EXPECT_EQ(error_of([&] { client.restart("none"); }).status(), ublk_ctl::kExitNotFound);
    EXPECT_EQ(error_of([&] { client.device("none"); }).status(), ublk_ctl::kExitNotFound);
    EXPECT_EQ(client.devices().size(), 1u);
  });
}

TEST_F(DbusTest, SecretsAreNotShown) {
  with_client([](RunnerClient& client) {
    client.add("safe", {{"handler", "own"}, {"size", "1M"}, {"token", "s3cret"}}, false);
    const Json device = client.device("safe");
    EXPECT_EQ(device["options"], (Json{{"handler", "own"}, {"size", "1M"}}));
    EXPECT_EQ(device["hidden_options"], Json::array({"token"}));
    EXPECT_EQ(device.dump().find("s3cret"), std::string::npos);
    client.remove("safe", true, false);
  });
}

TEST_F(DbusTest, SignalsTellOfDevicesThatComeAndGo) {
  const std::string address = "unix:path=" + socket();
  std::vector<std::string> members;
  GDBusConnection* listener = nullptr;
  run_client([&] {
    listener = g_dbus_connection_new_for_address_sync(
        address.c_str(), G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, nullptr, nullptr, nullptr);
  });
  ASSERT_NE(listener, nullptr);
  g_dbus_connection_signal_subscribe(
      listener, nullptr, "org.freedesktop.DBus.ObjectManager", nullptr, nullptr, nullptr,
      G_DBUS_SIGNAL_FLAGS_NONE,
      [](GDBusConnection*, const char*, const char*, const char*, const char* member,
         GVariant* values, gpointer list) {
        const char* path;
        g_variant_get_child(values, 0, "&o", &path);
        static_cast<std::vector<std::string>*>(list)->push_back(std::string(member) + ' ' + path);
      },
      &members, nullptr);
  with_client([](RunnerClient& client) {
    client.add("a.b", {{"handler", "null"}, {"size", "1M"}}, false);
    client.remove("a.b", true, false);
  });
  while (members.size() < 2) g_main_context_iteration(nullptr, TRUE);
  EXPECT_EQ(members[0], "InterfacesAdded /org/ublk/Runner1/devices/a_2eb");
  EXPECT_EQ(members[1], "InterfacesRemoved /org/ublk/Runner1/devices/a_2eb");
  g_object_unref(listener);
}

TEST_F(DbusTest, TheSocketIsItsOwnersAlone) {
  struct stat status {};
  ASSERT_EQ(stat(socket().c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

// Also where the modes of folder and socket would let them.
TEST_F(DbusTest, AnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  ASSERT_EQ(chmod(dir_.c_str(), 0777), 0);
  ASSERT_EQ(chmod(socket().c_str(), 0777), 0);
  run_client([this] {
    constexpr uid_t kNobody = 65534;
    // The system call, not the library's function, is of this thread alone.
    ASSERT_EQ(syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);
    EXPECT_NE(error_of([this] { RunnerClient(call()).devices(); }).status(), ublk_ctl::kExitOk);
  });
  with_client([](RunnerClient& client) { EXPECT_EQ(client.devices().size(), 1u); });
}

TEST_F(DbusTest, ClientsThatTalkNonsenseHarmNobody) {
  for (const std::string words : {"", "\0AUTH ANONYMOUS\r\n", "GET / HTTP/1.1\r\n\r\n"}) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(write(fd, words.data(), words.size()), static_cast<ssize_t>(words.size()));
    close(fd);
  }
  with_client([](RunnerClient& client) { EXPECT_EQ(client.devices().size(), 1u); });
}

TEST_F(DbusTest, NoRunnerIsToldAsSuch) {
  stop();
  EXPECT_EQ(error_of([this] { RunnerClient client(call()); }).status(), ublk_ctl::kExitNoRunner);
}

}  // namespace
}  // namespace fake
