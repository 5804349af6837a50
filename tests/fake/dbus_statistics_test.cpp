// SPDX-License-Identifier: MIT
// Statistics that the runner gives to its clients, and to a collector.
#include <ctl/statistics_sample.h>
#include <statistics_file.h>
#include <sys/stat.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "dbus_fixture.h"

namespace fake {
namespace {

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

}  // namespace
}  // namespace fake
