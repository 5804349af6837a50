// SPDX-License-Identifier: MIT
// What a configuration may say, and what that means.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "config_fixture.h"

namespace ublk_runner {
namespace {

TEST(Config, EmptyFileHasTheDefaults) {
  const Config config = ConfigFiles(Files{{"conf", ""}}).load();
  EXPECT_EQ(config.io_threads, 0u);
  EXPECT_EQ(config.spin, 0u);
  EXPECT_EQ(config.handler_dir, UBLK_HANDLER_DIR);
  EXPECT_EQ(config.log_level, LogLevel::kInfo);
  EXPECT_TRUE(config.devices.empty());
}

TEST(Config, ReadsEachKey) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "[runner]\n"
                                           "io_threads = 4\n"
                                           "spin = 50\n"
                                           "handler_dir = /opt/handlers\n"
                                           "log_level = debug\n"
                                           "statistics = on\n"
                                           "statistics_file = /var/ublk.prom\n"
                                           "statistics_interval = 3\n"
                                           "\n"
                                           "[device disk0]\n"
                                           "handler = file\n"
                                           "io_timeout = 30\n"
                                           "io_timeout_action = fail\n"
                                           "queues = 2\n"
                                           "queue_depth = 64\n"
                                           "max_io_size = 1M\n"
                                           "read_only = yes\n"
                                           "path = /srv/disk0.img\n"}})
                            .load();
  EXPECT_EQ(config.io_threads, 4u);
  EXPECT_EQ(config.spin, 50u);
  EXPECT_EQ(config.handler_dir, "/opt/handlers");
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
  EXPECT_TRUE(config.statistics);
  EXPECT_EQ(config.statistics_file, "/var/ublk.prom");
  EXPECT_EQ(config.statistics_interval, std::chrono::seconds(3));
  ASSERT_EQ(config.devices.size(), 1u);
  const DeviceConfig& device = config.devices[0];
  EXPECT_EQ(device.name, "disk0");
  EXPECT_EQ(device.handler, "file");
  EXPECT_EQ(device.io_timeout, std::chrono::seconds(30));
  EXPECT_EQ(device.io_timeout_action, TimeoutAction::kFail);
  EXPECT_EQ(device.queues, 2u);
  EXPECT_EQ(device.queue_depth, 64u);
  EXPECT_EQ(device.max_io_size, 1u << 20);
  EXPECT_TRUE(device.read_only);
  EXPECT_EQ(device.location.line, 10);
  EXPECT_EQ(device.handler_location.line, 11);
  ASSERT_EQ(device.options.size(), 1u);
  EXPECT_EQ(device.options.at("path").value, "/srv/disk0.img");
  EXPECT_EQ(device.options.at("path").location.line, 18);
}

TEST(Config, SpacesCommentsAndLineEndsDoNotCount) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "# comment\r\n"
                                           "   # indented\n"
                                           "\n"
                                           "  [ device   a ]  \r\n"
                                           "\thandler=null \t\r\n"
                                           "  size\t =\t 1G"}})
                            .load();
  ASSERT_EQ(config.devices.size(), 1u);
  EXPECT_EQ(config.devices[0].name, "a");
  EXPECT_EQ(config.devices[0].handler, "null");
  EXPECT_EQ(config.devices[0].options.at("size").value, "1G");
}

TEST(Config, ValuesKeepWhatIsInThem) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "[device a]\n"
                                           "handler = null\n"
                                           "plain = a b = c [d] # e ; \"f\"\n"
                                           "escaped = \\sx\\ty\\\\z\\n\\s\n"
                                           "utf8 = d\xc3\xbcrer\n"
                                           "empty =\n"}})
                            .load();
  const auto& options = config.devices.at(0).options;
  EXPECT_EQ(options.at("plain").value, "a b = c [d] # e ; \"f\"");
  EXPECT_EQ(options.at("escaped").value, " x\ty\\z\n ");
  EXPECT_EQ(options.at("utf8").value, "d\xc3\xbcrer");
  EXPECT_EQ(options.at("empty").value, "");
}

TEST(Config, DropInsAreReadInTheOrderOfTheirNames) {
  const Config config = ConfigFiles(Files{{"conf", "[device main]\nhandler = null\n"},
                                          {"conf.d/20.conf", "[device late]\nhandler = null\n"},
                                          {"conf.d/10.conf",
                                           "[runner]\nio_threads = 3\n"
                                           "[device early]\nhandler = null\n"},
                                          {"conf.d/B.conf", "[device upper]\nhandler = null\n"},
                                          {"conf.d/a.conf", "[device lower]\nhandler = null\n"}})
                            .load();
  std::vector<std::string> names;
  for (const DeviceConfig& device : config.devices) names.push_back(device.name);
  EXPECT_EQ(names, (std::vector<std::string>{"main", "early", "late", "upper", "lower"}));
  EXPECT_EQ(config.io_threads, 3u);
}

TEST(Config, OtherFilesOfTheFolderAreLeftAlone) {
  const Config config = ConfigFiles(Files{{"conf", ""},
                                          {"conf.d/README", "no configuration"},
                                          {"conf.d/x.conf~", "no configuration"},
                                          {"conf.d/x.conf.bak", "no configuration"},
                                          {"conf.d/.hidden.conf", "no configuration"}})
                            .load();
  EXPECT_TRUE(config.devices.empty());
}

TEST(Config, FilesMayShareTheRunnerGroup) {
  const Config config = ConfigFiles(Files{{"conf", "[runner]\nio_threads = 3\n"},
                                          {"conf.d/x.conf", "[runner]\nlog_level = error\n"}})
                            .load();
  EXPECT_EQ(config.io_threads, 3u);
  EXPECT_EQ(config.log_level, LogLevel::kError);
}

TEST(Config, LongestNamesAreTaken) {
  const std::string name(64, 'n');
  const Config config =
      ConfigFiles(Files{{"conf", "[device " + name + "]\nhandler = " + name + "\n"}}).load();
  EXPECT_EQ(config.devices.at(0).name, name);
  EXPECT_EQ(config.devices.at(0).handler, name);
}

}  // namespace
}  // namespace ublk_runner
