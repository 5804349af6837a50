// SPDX-License-Identifier: MIT
// What is counted is what there was, for every model and buffer mode; and nothing is while it is
// switched off.
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "random_io.h"
#include "runner_fixture.h"

namespace fake {
namespace {

using ublk_runner::BatchOption;
using ublk_runner::BufferOption;
using ublk_runner::DeviceStatistics;
using ublk_runner::OperationStatistics;

class StatisticsTest : public RunnerTest {
 protected:
  DeviceStatistics statistics(const std::string& device = "disk") {
    DeviceStatistics got;
    const auto ask = [](Runner& runner, std::string name,
                        DeviceStatistics& to) -> ublk_runner::Task<> {
      to = co_await runner.statistics(std::move(name));
    };
    EXPECT_EQ(error_of_task(ask(*runner_, device, got)), "");
    return got;
  }

  static uint64_t requests(const DeviceStatistics& statistics) {
    return std::accumulate(
        statistics.operations.begin(), statistics.operations.end(), uint64_t{0},
        [](uint64_t sum, const OperationStatistics& o) { return sum + o.requests; });
  }

  // What each operation must be, whatever it was.
  static void expect_consistent(const DeviceStatistics& statistics) {
    for (const OperationStatistics& operation : statistics.operations) {
      EXPECT_EQ(operation.in_flight, 0u);
      uint64_t parts = 0;
      for (size_t stage = 0; stage < operation.stages.size(); ++stage) {
        EXPECT_EQ(operation.stages[stage].count(), operation.requests);
        EXPECT_LE(operation.stages[stage].max, operation.stages[ublk_runner::kTotal].max);
        if (stage != ublk_runner::kTotal) parts += operation.stages[stage].sum;
      }
      EXPECT_EQ(parts, operation.stages[ublk_runner::kTotal].sum);
    }
  }
};

class CountsTest : public StatisticsTest,
                   public testing::WithParamInterface<std::tuple<Shape, Mode>> {};

TEST_P(CountsTest, AreThoseOfTheUsersRequests) {
  const auto& [shape, mode] = GetParam();
  add(shape, mode);
  config_.statistics = true;
  const StartSummary summary = start();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;

  const DeviceStatistics begin = statistics();
  EXPECT_TRUE(begin.enabled);
  constexpr uint32_t kSectors = 16;
  std::vector<std::byte> data(size_t{kSectors} * 512);
  const auto disk = driver().disk(0);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(disk->write(0, kSectors, data.data()), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(disk->read(0, kSectors, data.data()), 0);
  EXPECT_EQ(disk->discard(0, kSectors), 0);
  const DeviceStatistics known = statistics();
  expect_consistent(known);
  EXPECT_EQ(known.operations[0].requests - begin.operations[0].requests, 3u);
  EXPECT_EQ(known.operations[0].bytes - begin.operations[0].bytes, 3 * data.size());
  EXPECT_EQ(known.operations[1].requests, 5u);
  EXPECT_EQ(known.operations[1].bytes, 5 * data.size());
  EXPECT_EQ(known.operations[1].errors, 0u);
  EXPECT_EQ(known.operations[3].requests, 1u);
  EXPECT_GT(known.operations[1].stages[ublk_runner::kTotal].max, 0u);
  EXPECT_GT(known.operations[1].stages[ublk_runner::kHandler].sum, 0u);

  const uint64_t count = kSanitized ? 1000 : 4000;
  RandomIo io(disk, {.depth = 64, .requests = count, .max_sectors = 128});
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
  const DeviceStatistics all = statistics();
  expect_consistent(all);
  EXPECT_EQ(requests(all), requests(known) + count);
  ASSERT_EQ(all.slowest.size(), DeviceStatistics::kSlowest);
  for (size_t i = 1; i < all.slowest.size(); ++i)
    EXPECT_GE(all.slowest[i - 1].stages[ublk_runner::kTotal],
              all.slowest[i].stages[ublk_runner::kTotal]);
}

INSTANTIATE_TEST_SUITE_P(
    , CountsTest,
    testing::Combine(
        testing::Values(Shape{"Memory", "memory", {{"size", "8M"}}},
                        Shape{
                            "FileRing", "file", {{"path", ""}, {"size", "8M"}, {"create", "true"}}},
                        Shape{"MovesOnWorkers", "moves", {{"size", "8M"}, {"io", "workers"}}},
                        Shape{"OwnOnWorkers", "own", {{"size", "8M"}, {"io", "workers"}}}),
        testing::ValuesIn(kModes)),
    [](const auto& param_info) { return name_of_both(param_info); });

TEST_F(StatisticsTest, AreSwitchedOnAndOffUnderLoad) {
  add("disk", "moves", {{"size", "8M"}, {"io", "workers"}});
  ASSERT_TRUE(start().failed.empty());
  RandomIo io(driver().disk(0), {.depth = 32, .requests = kSanitized ? 3000u : 20000u});
  for (int i = 0; i < 20; ++i) {
    runner_->use_statistics(i % 2 == 0);
    EXPECT_EQ(statistics().enabled, i % 2 == 0);
  }
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
  std::vector<std::byte> data(4096);
  const uint64_t before = requests(statistics());
  EXPECT_EQ(driver().disk(0)->read(0, 8, data.data()), 0);
  EXPECT_EQ(requests(statistics()), before) << "they are off";
  runner_->use_statistics(true);
  statistics();
  EXPECT_EQ(driver().disk(0)->read(0, 8, data.data()), 0);
  EXPECT_EQ(requests(statistics()), before + 1);
}

TEST_F(StatisticsTest, ARestartGoesOnCounting) {
  add("disk", "file", {{"path", dir_ + "/disk"}, {"size", "8M"}, {"create", "true"}});
  config_.statistics = true;
  ASSERT_TRUE(start().failed.empty());
  const uint64_t before = requests(statistics());
  const uint64_t count = kSanitized ? 1000 : 5000;
  RandomIo io(driver().disk(0), {.depth = 16, .requests = count});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(error_of_task(runner_->restart("disk")), "");
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
  const DeviceStatistics got = statistics();
  expect_consistent(got);
  EXPECT_EQ(requests(got), before + count);
}

// Else who asks for those of a hundred devices waits for a hundred seconds.
TEST_F(StatisticsTest, AThreadThatDoesNotAnswerIsWaitedForOnce) {
  constexpr int kDevices = 12;
  constexpr auto kBlocked = std::chrono::seconds(8);  // less than a second for each device
  const std::string block = dir_ + "/block";
  for (int i = 0; i < kDevices; ++i) {
    const std::string path = dir_ + "/disk" + std::to_string(i);
    add(i == 0 ? "disk" : "disk" + std::to_string(i), "touchy",
        {{"path", path},
         {"size", "1M"},
         {"no_open", path + "-no"},
         {"no_close", path + "-no"},
         {"block", block}});
  }
  config_.io_threads = 1;
  ASSERT_TRUE(start().failed.empty());
  std::ofstream(block) << ' ';
  std::vector<std::byte> data(4096);
  std::atomic<bool> ended{false};
  driver().disk(0)->submit(
      {.op = ublk::Operation::kRead, .sector = 0, .sectors = 8, .data = data.data()},
      [&ended](int) { ended = true; });
  EXPECT_TRUE(eventually([this] { return statistics().silent_queues == 1; }));
  const auto began = std::chrono::steady_clock::now();
  int silent = 0;
  for (const auto& device : runner_->devices()) {
    if (std::chrono::steady_clock::now() - began > kBlocked) std::filesystem::remove(block);
    silent += static_cast<int>(statistics(device->name()).silent_queues);
  }
  EXPECT_EQ(silent, kDevices);
  std::filesystem::remove(block);
  EXPECT_TRUE(eventually([this, &ended] { return ended && statistics().silent_queues == 0; }));
}

TEST_F(StatisticsTest, SwitchingThemIsAChangeOfTheConfiguration) {
  add("disk", "memory", {{"size", "8M"}});
  ASSERT_TRUE(start().failed.empty());
  const auto apply = [](Runner& runner, Config config,
                        std::vector<std::string>& done) -> ublk_runner::Task<> {
    done = (co_await runner.apply(std::move(config))).done;
  };
  config_.statistics = true;
  std::vector<std::string> done;
  EXPECT_EQ(error_of_task(apply(*runner_, config_, done)), "");
  EXPECT_EQ(done, std::vector<std::string>{"set [runner]: statistics"});
  EXPECT_EQ(error_of_task(apply(*runner_, config_, done)), "");
  EXPECT_EQ(done, std::vector<std::string>{});
}

}  // namespace
}  // namespace fake
