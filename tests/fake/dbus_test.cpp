// SPDX-License-Identifier: MIT
// The runner as clients of its socket see and drive it, on the in-process driver.
#include <ctl/runner_client.h>
#include <ctl/statistics_sample.h>
#include <dbus_server.h>
#include <gio/gio.h>
#include <reload.h>
#include <runner.h>
#include <statistics_file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "fixture.h"
#include "random_io.h"
#include "support/test_data.h"

namespace fake {
namespace {

using ublk_ctl::Call;
using ublk_ctl::CommandError;
using ublk_ctl::ExitStatus;
using ublk_ctl::Json;
using ublk_ctl::RunnerClient;
using ublk_runner::Reloader;
using ublk_runner::Runner;

using Settings = std::map<std::string, std::string>;

class DbusTest : public FakeTest {
 protected:
  void SetUp() override {
    FakeTest::SetUp();
    if (IsSkipped()) return;
    write_config("[device first]\nhandler = null\nsize = 8M\n");
    start();
  }
  void TearDown() override {
    if (runner_) stop();
    FakeTest::TearDown();
  }

  void write_config(const std::string& devices) {
    std::ofstream(config()) << "[runner]\nbuffer_memory = 64M\n" << devices;
  }
  std::string config() const { return dir_ + "/conf"; }
  std::string config_dir() const { return config() + ".d"; }
  std::string socket() const { return dir_ + "/bus"; }

  void start() {
    ublk_runner::RunnerOptions options;
    options.handler_dir = UBLK_TEST_HANDLERS;
    options.link_dir = dir_ + "/ublk";
    options.driver = &driver();
    runner_.emplace(options);
    reloader_.emplace(*runner_, config(), UBLK_TEST_HANDLERS);
    bool done = false;
    ublk_runner::Config loaded = ublk_runner::load_config(config());
    loaded.handler_dir = UBLK_TEST_HANDLERS;
    runner_->start(loaded, [&](ublk_runner::StartSummary) { done = true; });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    server_.emplace(*runner_, *reloader_, config(), socket(), false);
  }

  void stop() {
    bool done = false;
    runner_->stop([&] { done = true; });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    server_.reset();
    while (g_main_context_iteration(nullptr, FALSE)) {
    }
    reloader_.reset();
    runner_.reset();
  }

  // Runs `client` on a thread of its own while this one is the control thread.
  static void run_client(const std::function<void()>& client) {
    std::atomic<bool> done{false};
    std::exception_ptr failure;
    std::thread thread([&] {
      try {
        client();
      } catch (...) {
        failure = std::current_exception();
      }
      done = true;
      g_main_context_wakeup(nullptr);
    });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  Call call() const {
    Call call;
    call.options["socket"] = socket();
    return call;
  }
  void with_client(const std::function<void(RunnerClient&)>& client) {
    run_client([&] {
      RunnerClient connected(call());
      client(connected);
    });
  }

  static CommandError error_of(const std::function<void()>& client) {
    try {
      client();
    } catch (const CommandError& e) {
      return e;
    }
    ADD_FAILURE() << "no error";
    return {ublk_ctl::kExitOk, ""};
  }

  Settings file_settings(const std::string& name) const {
    return {{"handler", "file"},
            {"path", dir_ + '/' + name},
            {"size", "8M"},
            {"create", "true"},
            {"queue_depth", "32"}};
  }

  const test::TempDir folder_;
  const std::string dir_ = folder_.path();
  std::optional<Runner> runner_;
  std::optional<Reloader> reloader_;
  std::optional<ublk_runner::DbusServer> server_;
};

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

TEST_F(DbusTest, StatisticsAreThoseOfTheDevice) {
  std::vector<std::byte> data(4096);
  const auto disk = driver().disk(0);
  const auto reads = [this] {
    uint64_t count = 0;
    with_client(
        [&](RunnerClient& client) { count = client.statistics("first").operations[0].requests; });
    return count;
  };
  EXPECT_EQ(disk->read(0, 8, data.data()), 0);
  EXPECT_EQ(reads(), 0u) << "they are off";
  runner_->use_statistics(true);
  reads();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(disk->read(0, 8, data.data()), 0);
  EXPECT_EQ(disk->read(0, 8, data.data()), 0);
  with_client([this](RunnerClient& client) {
    const ublk_ctl::Sample sample = ublk_ctl::take_sample(client, {});
    ASSERT_EQ(sample.devices.size(), 1u);
    const auto& first = sample.devices.at("first");
    EXPECT_TRUE(first.enabled);
    EXPECT_EQ(first.operations[0].requests, 4u);
    EXPECT_EQ(first.operations[0].bytes, 4 * 4096u);
    EXPECT_EQ(first.operations[0].stages[0].count(), 4u);
    EXPECT_EQ(first.slowest.size(), 4u);
    EXPECT_EQ(error_of([&] { ublk_ctl::take_sample(client, {"none"}); }).status(),
              ublk_ctl::kExitNotFound);
  });
}

// What the runner itself writes for a collector.
TEST_F(DbusTest, StatisticsFileIsReplacedAsAWhole) {
  runner_->use_statistics(true);
  const std::string path = dir_ + "/ublk.prom";
  std::optional<ublk_runner::StatisticsFile> file;
  file.emplace(*runner_, path, std::chrono::seconds(1));
  ino_t first = 0;
  const auto number = [&path] {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
  };
  while ((first = number()) == 0) g_main_context_iteration(nullptr, TRUE);
  while (number() == first) g_main_context_iteration(nullptr, TRUE);
  file.reset();
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  EXPECT_TRUE(text.starts_with("# HELP ublk_requests_total "));
  EXPECT_NE(text.find("ublk_requests_total{device=\"first\",operation=\"read\"} "),
            std::string::npos);
  EXPECT_EQ(text.back(), '\n');
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

TEST_F(DbusTest, PersistentDeviceIsInTheConfiguration) {
  with_client([this](RunnerClient& client) {
    client.add("kept", {{"handler", "null"}, {"size", "1M"}}, true);
    EXPECT_EQ(client.device("kept")["configured"], true);
    // What has failed leaves nothing, and what is there is not replaced.
    error_of([&] { client.add("bad", {{"handler", "null"}, {"no_such", "1"}}, true); });
    client.remove("kept", true, false);
    const CommandError again = error_of([&] {
      client.add("kept", {{"handler", "null"}, {"size", "2M"}}, true);
    });
    EXPECT_NE(std::string(again.what()).find("conf.d/kept.conf:1"), std::string::npos);
  });
  const auto all = std::filesystem::directory_iterator(config() + ".d");
  EXPECT_EQ(std::distance(begin(all), end(all)), 1);
  struct stat status {};
  ASSERT_EQ(stat((config() + ".d/kept.conf").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const ublk_runner::Config config = ublk_runner::load_config(this->config());
  ASSERT_EQ(config.devices.size(), 2u);
  EXPECT_EQ(config.devices[1].options.at("size").value, "1M");
}

TEST_F(DbusTest, PersistentDeviceIsRemovedFromTheConfigurationToo) {
  with_client([](RunnerClient& client) {
    EXPECT_NE(error_of([&] { client.remove("first", true, true); }).status(), 0);
    EXPECT_EQ(client.devices().size(), 1u) << "it is in the file of others";
    client.add("kept", {{"handler", "null"}, {"size", "1M"}}, true);
    client.remove("kept", true, true);
    EXPECT_EQ(client.devices().size(), 1u);
  });
  EXPECT_FALSE(std::filesystem::exists(config() + ".d/kept.conf"));
}

// They would write the same file.
TEST_F(DbusTest, OfTwoPersistentDevicesOfOneNameThereIsOne) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> added{0};
    run_client([&] {
      const auto add = [&](const char* size) {
        try {
          RunnerClient(call()).add("kept", {{"handler", "null"}, {"size", size}}, true);
          ++added;
        } catch (const CommandError& e) {
          EXPECT_EQ(e.status(), ublk_ctl::kExitFailed) << e.what();
        }
      };
      std::thread other(add, "1M");
      add("2M");
      other.join();
    });
    EXPECT_EQ(added, 1);
    const ublk_runner::Config config = ublk_runner::load_config(this->config());
    ASSERT_EQ(config.devices.size(), 2u);
    with_client([&](RunnerClient& client) {
      EXPECT_EQ(client.device("kept")["options"]["size"],
                config.devices[1].settings.at("size").value);
      client.remove("kept", true, true);
    });
    ASSERT_TRUE(std::filesystem::is_empty(config_dir()));
    if (HasFailure()) return;
  }
}

TEST_F(DbusTest, ADeviceThatIsNotPersistentIsNoneThatIsMissing) {
  with_client([this](RunnerClient& client) {
    const auto remove = [&] { return error_of([&] { client.remove("first", true, true); }); };
    EXPECT_EQ(remove().status(), ublk_ctl::kExitFailed);
    EXPECT_EQ(remove().what(), "first is not persistent: " + config_dir() +
                                   "/first.conf: No such file or directory");
    EXPECT_EQ(client.devices().size(), 1u);
  });
}

TEST_F(DbusTest, ReloadDoesWhatTheDryRunSays) {
  write_config(
      "[device second]\nhandler = null\nsize = 1M\n"
      "[device first]\nhandler = null\nsize = 8M\nqueue_depth = 4\n");
  with_client([](RunnerClient& client) {
    const RunnerClient::Applied dry = client.reload(true);
    ASSERT_EQ(dry.done.size(), 2u);
    EXPECT_EQ(dry.done[0], "add second");
    EXPECT_EQ(dry.done[1],
              "refuse first: queue_depth can't change while the device lives: remove it first");
    EXPECT_TRUE(dry.failed.empty());
    EXPECT_EQ(client.devices().size(), 1u);
    const RunnerClient::Applied applied = client.reload(false);
    EXPECT_EQ(applied.done, std::vector<std::string>{dry.done[0]});
    EXPECT_EQ(applied.failed, std::vector<std::string>{dry.done[1]});
    EXPECT_EQ(client.devices().size(), 2u);
  });
  write_config("[device third]\nhandler = null\n[device fourth]\nhandler = null\nsize = x\n");
  with_client([this](RunnerClient& client) {
    const CommandError broken = error_of([&] { client.reload(false); });
    EXPECT_TRUE(std::string(broken.what()).starts_with(config() + ":7: size: expected"))
        << broken.what();
    EXPECT_EQ(client.devices().size(), 2u);
  });
  EXPECT_TRUE(reloader_->config_has_errors());
  write_config("[device third]\nhandler = null\nsize = 1M\n");
  with_client([](RunnerClient& client) { client.reload(false); });
  EXPECT_FALSE(reloader_->config_has_errors());
}

TEST_F(DbusTest, WhatSaysTheSameIsNoChange) {
  write_config(
      "[device first]\nhandler = null\nsize = 8M\nqueues = 1\nqueue_depth = 128\n"
      "max_io_size = 524288\nread_only = no\nbuffer = auto\nrecovery = reissue\n");
  with_client([](RunnerClient& client) {
    EXPECT_EQ(client.reload(true).done, std::vector<std::string>());
  });
  write_config("[device first]\nhandler = null\nsize = 8M\nread_only = yes\n");
  with_client([](RunnerClient& client) {
    EXPECT_EQ(client.reload(true).done,
              std::vector<std::string>{
                  "refuse first: read_only can't change while the device lives: remove it first"});
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
