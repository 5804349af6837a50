// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <persistent_device.h>
#include <runner_error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>

#include "test_data.h"

namespace ublk_runner {
namespace {

class PersistentDeviceTest : public testing::Test {
 protected:
  PersistentDeviceTest() { std::ofstream(conf()) << "[device other]\nhandler = null\n"; }

  std::string conf() const { return dir_ / "conf"; }

  static DeviceConfig device(const std::map<std::string, std::string>& settings) {
    DeviceConfig device;
    device.name = "disk";
    device.handler = "file";
    for (const auto& [key, value] : settings) device.settings[key] = {value, {}};
    return device;
  }

  size_t nr_files() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(conf() + ".d"))
      count += entry.exists();
    return count;
  }

  const test::TempDir dir_;
};

TEST_F(PersistentDeviceTest, IsReadAgainAsItWas) {
  const std::map<std::string, std::string> settings = {
      {"handler", "file"}, {"path", " two  words "}, {"a", "\\n#[x]=\n\t\r"}, {"b", "\""}};
  PersistentDevice file(conf(), device(settings));
  EXPECT_EQ(load_config(conf()).devices.size(), 1u);
  file.commit();
  const Config config = load_config(conf());
  ASSERT_EQ(config.devices.size(), 2u);
  EXPECT_EQ(config.devices[1].name, "disk");
  for (const auto& [key, value] : settings)
    EXPECT_EQ(config.devices[1].settings.at(key).value, value) << key;
  EXPECT_EQ(nr_files(), 1u);
}

TEST_F(PersistentDeviceTest, LeavesNothingWithoutCommit) {
  { const PersistentDevice file(conf(), device({{"handler", "null"}})); }
  EXPECT_EQ(nr_files(), 0u);
}

TEST_F(PersistentDeviceTest, RefusesWhatTheConfigurationHas) {
  std::ofstream(conf(), std::ios::app) << "[device disk]\nhandler = null\n";
  EXPECT_THROW(PersistentDevice(conf(), device({{"handler", "null"}})), RunnerError);
}

TEST_F(PersistentDeviceTest, ReplacesNoFile) {
  std::filesystem::create_directory(conf() + ".d");
  PersistentDevice file(conf(), device({{"handler", "null"}}));
  std::ofstream(conf() + ".d/disk.conf") << "# mine\n";
  EXPECT_THROW(file.commit(), RunnerError);
  EXPECT_THROW(PersistentDevice(conf(), device({{"handler", "null"}})), RunnerError);
}

TEST_F(PersistentDeviceTest, FollowsNoLink) {
  std::filesystem::create_directory(conf() + ".d");
  std::ofstream(dir_ / "victim") << "untouched";
  std::filesystem::create_symlink(dir_ / "victim", conf() + ".d/.disk.conf.new");
  PersistentDevice file(conf(), device({{"handler", "null"}}));
  file.commit();
  std::string text;
  std::ifstream(dir_ / "victim") >> text;
  EXPECT_EQ(text, "untouched");
}

TEST_F(PersistentDeviceTest, RefusesWhatWouldBeReadAsSomethingElse) {
  EXPECT_THROW(PersistentDevice(conf(), device({{"a\n[device b]\nhandler", "null"}})),
               std::runtime_error);
  EXPECT_THROW(PersistentDevice(conf(), device({{"UPPER", "1"}})), std::runtime_error);
  EXPECT_THROW(PersistentDevice(conf(), device({{"a", "\xff"}})), std::runtime_error);
  EXPECT_EQ(nr_files(), 0u);
}

TEST_F(PersistentDeviceTest, RefusesANameWhoseFileIsNotRead) {
  DeviceConfig hidden = device({{"handler", "null"}});
  hidden.name = ".hidden";
  EXPECT_THROW(PersistentDevice(conf(), hidden), std::runtime_error);
  EXPECT_FALSE(std::filesystem::exists(conf() + ".d"));
}

TEST_F(PersistentDeviceTest, IsRemoved) {
  PersistentDevice(conf(), device({{"handler", "null"}})).commit();
  remove_persistent_device_file(persistent_device_file(conf(), "disk"));
  EXPECT_EQ(nr_files(), 0u);
  EXPECT_THROW(persistent_device_file(conf(), "disk"), std::runtime_error);
}

TEST_F(PersistentDeviceTest, IsNotRemovedWithAnythingElse) {
  PersistentDevice(conf(), device({{"handler", "null"}})).commit();
  const std::string path = conf() + ".d/disk.conf";
  std::ofstream(path, std::ios::app) << "[device other]\nhandler = null\n";
  EXPECT_THROW(persistent_device_file(conf(), "disk"), std::runtime_error);
  std::ofstream(path) << "[device other]\nhandler = null\n";
  EXPECT_THROW(persistent_device_file(conf(), "disk"), std::runtime_error);
  std::ofstream(path) << "[device disk]\njunk\n";
  EXPECT_THROW(persistent_device_file(conf(), "disk"), std::runtime_error);
  EXPECT_EQ(nr_files(), 1u);
}

TEST_F(PersistentDeviceTest, IsNotRemovedWithAComment) {
  PersistentDevice(conf(), device({{"handler", "null"}, {"size", "1M"}})).commit();
  const std::string path = conf() + ".d/disk.conf";
  std::ofstream(path) << "[device disk]\nhandler = null\nsize = 2M\n";
  EXPECT_EQ(persistent_device_file(conf(), "disk"), path) << "another value is none of that";
  std::ofstream(path, std::ios::app) << "# of the accounts\n";
  EXPECT_THROW(persistent_device_file(conf(), "disk"), std::runtime_error);
}

TEST_F(PersistentDeviceTest, NeedsAConfigurationWithoutErrors) {
  std::ofstream(conf(), std::ios::app) << "junk\n";
  EXPECT_THROW(PersistentDevice(conf(), device({{"handler", "null"}})), ConfigError);
}

}  // namespace
}  // namespace ublk_runner
