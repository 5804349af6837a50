// SPDX-License-Identifier: MIT
// What a reload does with each key of the configuration.
#include <config_keys.h>
#include <option_value.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runner_fixture.h"

namespace fake {
namespace {

using ublk_runner::Key;
using ublk_runner::keys_of;
using ublk_runner::Reload;

using Lines = std::vector<std::string>;
using Values = std::map<std::string, std::string>;

// One that is not the default.
std::string other_value(const ublk_option& key) {
  if (key.type == UBLK_OPTION_BOOL)
    return std::string_view(key.default_value) == "true" ? "false" : "true";
  if (key.type == UBLK_OPTION_CHOICE) return std::string(ublk_runner::choice_words(key).back());
  if (key.maximum != 0) return std::to_string(key.maximum);
  return key.type == UBLK_OPTION_PATH ? "/other" : "other";
}

class ChangesTest : public RunnerTest {
 protected:
  // What a file says of [runner], and of the one device.
  Config read(const Values& runner, Values device = {}) const {
    device.insert({{"handler", "null"}, {"size", "1M"}});
    std::string text = "[runner]\n";
    for (const auto& [key, value] : runner) text += key + " = " + value + '\n';
    text += "[device disk]\n";
    for (const auto& [key, value] : device) text += key + " = " + value + '\n';
    folder_.write("conf", text);
    return ublk_runner::load_config(folder_ / "conf");
  }

  void serve(const Config& config) {
    config_ = config;
    ASSERT_TRUE(start().failed.empty());
  }

  Lines changes(const Config& config) const {
    Lines lines;
    for (const ublk_runner::Change& change : runner_->changes(config))
      lines.push_back(to_string(change));
    return lines;
  }

  Runner::Applied apply(const Config& config) {
    Runner::Applied applied;
    const auto run = [](Runner& runner, Config config,
                        Runner::Applied& applied) -> ublk_runner::Task<> {
      applied = co_await runner.apply(std::move(config));
    };
    EXPECT_EQ(error_of_task(run(*runner_, config, applied)), "");
    return applied;
  }
};

TEST_F(ChangesTest, EachKeyOfTheRunnerIsToldOnce) {
  serve(read({}));
  for (const Key<Config>& key : keys_of<Config>()) {
    const std::string name = key.option.name;
    EXPECT_EQ(
        changes(read({{name, other_value(key.option)}})),
        Lines{key.reload == Reload::kTakesIn
                  ? "set [runner]: " + name
                  : "refuse [runner]: " + name + " is taken in when the runner is started again"});
  }
}

TEST_F(ChangesTest, EachKeyOfADeviceIsToldOnce) {
  serve(read({}));
  for (const Key<DeviceConfig>& key : keys_of<DeviceConfig>()) {
    const std::string name = key.option.name;
    EXPECT_EQ(changes(read({}, {{name, other_value(key.option)}})),
              Lines{key.reload == Reload::kTakesIn
                        ? "restart disk: " + name
                        : "refuse disk: " + name +
                              " can't change while the device lives: remove it first"});
  }
  EXPECT_EQ(changes(read({}, {{"size", "2M"}, {"workers", "1"}})),
            Lines{"restart disk: size, workers"});
  EXPECT_EQ(changes(read({{"changed_devices", "refuse"}}, {{"size", "2M"}})).back(),
            "refuse disk: size would need a restart, and changed_devices = refuse");
}

TEST_F(ChangesTest, WhatIsTakenInIsNoChangeAnyMore) {
  serve(read({}));
  Values values;
  for (const Key<Config>& key : keys_of<Config>())
    values[key.option.name] = other_value(key.option);
  const Config other = read(values);
  const Runner::Applied applied = apply(other);
  EXPECT_EQ(applied.done.size(), 1u);
  EXPECT_EQ(applied.failed.size(), 1u);
  EXPECT_EQ(changes(other), applied.failed);
}

// Nor is a number that the runner has chosen.
TEST_F(ChangesTest, AnotherWordForTheSameIsNoChange) {
  serve(read({{"buffer_memory", "64M"}}, {{"queues", "0"}, {"max_io_size", "1M"}}));
  EXPECT_EQ(changes(read({{"buffer_memory", "65536K"}, {"watch", "yes"}},
                         {{"queues", "0"}, {"max_io_size", "1024K"}, {"read_only", "no"}})),
            Lines{});
  EXPECT_EQ(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(changes(config_), Lines{});
}

}  // namespace
}  // namespace fake
