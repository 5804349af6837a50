// SPDX-License-Identifier: MIT
// What clients do with the configuration: devices that are to stay are written into it, and it is
// read again.
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "dbus_fixture.h"
#include "support/eventually.h"

namespace fake {
namespace {

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

class UnusedDbusTest : public DbusTest {
 protected:
  UnusedDbusTest() { unused_ = true; }
};

TEST_F(UnusedDbusTest, WhatCannotBeKeptForGoodIsNotServed) {
  const std::string hang = dir_ + "/hang";
  std::ofstream(hang) << ' ';
  run_client([&] {
    std::thread other([&] {
      const auto add = [&] {
        const std::string disk = dir_ + "/disk";
        RunnerClient(call()).add("kept",
                                 {{"handler", "touchy"},
                                  {"path", disk},
                                  {"size", "1M"},
                                  {"no_open", disk + "-no"},
                                  {"no_close", disk + "-no"},
                                  {"hang", hang}},
                                 true);
      };
      EXPECT_NE(std::string(error_of(add).what()).find("kept.conf exists already"),
                std::string::npos);
    });
    // While it is opened somebody else writes such a file.
    EXPECT_TRUE(test::eventually([&] { return std::filesystem::file_size(hang) == 2; }));
    std::ofstream(config_dir() + "/kept.conf") << "[device other]\nhandler = null\n";
    std::filesystem::remove(hang);
    other.join();
    EXPECT_EQ(RunnerClient(call()).devices().size(), 1u);
  });
  EXPECT_TRUE(std::filesystem::exists(config_dir() + "/kept.conf"));
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

}  // namespace
}  // namespace fake
