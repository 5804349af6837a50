// SPDX-License-Identifier: MIT
// Requests that the handler does not answer in time fail, and it does no harm that it has them: the
// device goes on in every buffer mode, and its data is right while late answers come.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "random_io.h"
#include "runner_fixture.h"

namespace fake {
namespace {

using ublk_runner::BatchOption;
using ublk_runner::BufferOption;
using ublk_runner::DeviceStatistics;
using ublk_runner::TimeoutAction;

struct LateShape {
  const char* name;
  const char* handler;
  bool workers;
};
std::ostream& operator<<(std::ostream& out, const LateShape& shape) { return out << shape.name; }

class TimeoutTest : public RunnerTest {
 protected:
  static constexpr unsigned kLate = 6;
  static constexpr uint32_t kSectors = 16;
  // Nothing that does not hang may take so long, on a machine that is busy with other things, too.
  static constexpr std::chrono::milliseconds kTimeout{kSanitized ? 5000 : 1000};

  DeviceConfig& add_late(const char* handler, bool workers) {
    DeviceConfig& device = add("disk", handler,
                               {{"size", "4M"},
                                {"on_workers", workers ? "true" : "false"},
                                {"hold", hold()},
                                {"release", release()}});
    device.io_timeout = kTimeout;
    device.io_timeout_action = TimeoutAction::kFail;
    device.workers = kLate + 2;
    return device;
  }

  std::string hold() const { return dir_ + "/hold"; }
  std::string release() const { return dir_ + "/release"; }
  static void touch(const std::string& path) { std::ofstream(path) << ' '; }

  DeviceStatistics statistics() {
    DeviceStatistics got;
    const auto ask = [](Runner& runner, DeviceStatistics& to) -> ublk_runner::Task<> {
      to = co_await runner.statistics("disk");
    };
    EXPECT_EQ(error_of_task(ask(*runner_, got)), "");
    return got;
  }

  // Starts reads and writes in turn, one behind the other; each result comes to its place.
  void submit(const std::shared_ptr<Disk>& disk) {
    for (unsigned i = 0; i < kLate; ++i) {
      data_[i].assign(size_t{kSectors} * 512, std::byte{static_cast<unsigned char>(i + 1)});
      results_[i] = 1;
      const auto op = i % 2 == 0 ? ublk::Operation::kRead : ublk::Operation::kWrite;
      disk->submit({.op = op, .sector = i * kSectors, .sectors = kSectors, .data = data_[i].data()},
                   [this, i](int result) { results_[i] = result; });
    }
  }
  void expect_all_to_end_with(int result) {
    const auto waits = [](const auto& r) { return r == 1; };
    EXPECT_TRUE(eventually([&] { return std::none_of(results_.begin(), results_.end(), waits); }));
    for (const auto& r : results_) EXPECT_EQ(r, result);
  }
  void expect_soon(uint64_t DeviceStatistics::*figure, uint64_t count) {
    uint64_t seen = 0;
    EXPECT_TRUE(eventually([&] { return (seen = statistics().*figure) >= count; }))
        << seen << " of " << count;
  }

  std::array<std::vector<std::byte>, kLate> data_;
  std::array<std::atomic<int>, kLate> results_;
};

class LateDataTest : public TimeoutTest,
                     public testing::WithParamInterface<std::tuple<LateShape, Mode>> {};

TEST_P(LateDataTest, DeviceGoesOnWithTheRightData) {
  const auto& [shape, mode] = GetParam();
  DeviceConfig& device = add_late(shape.handler, shape.workers);
  device.queue_depth = 16;
  device.buffer = mode.option;
  device.batch_io = mode.batch_io;
  config_.statistics = true;
  const StartSummary summary = start();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  const auto disk = driver().disk(0);

  touch(hold());
  submit(disk);
  expect_all_to_end_with(-ETIMEDOUT);
  for (unsigned i = 0; i < kLate; i += 2)
    EXPECT_EQ(data_[i], std::vector<std::byte>(data_[i].size(), std::byte(i + 1)))
        << "a failed read has changed the reader's memory";
  const DeviceStatistics failed = statistics();
  EXPECT_EQ(failed.timed_out, kLate);
  EXPECT_EQ(failed.timeout_failures, kLate);
  for (const size_t operation : {0u, 1u}) EXPECT_EQ(failed.operations[operation].errors, kLate / 2);
  EXPECT_EQ(failed.slowest.at(0).result, -ETIMEDOUT);
  EXPECT_GE(failed.slowest.at(0).stages[ublk_runner::kHandler], uint64_t{1'000'000'000});
  EXPECT_EQ(statistics().late_answers, 0u);

  // Twice the tags' number, so all tags are in use while the handler still has some of their
  // memory.
  unlink(hold().c_str());
  const RandomIo::Options io = {.depth = 32,
                                .requests = kThreadSanitized ? 600u
                                            : kSanitized     ? 1500u
                                                             : 5000u,
                                .max_sectors = 128,
                                .zeroing = false};
  {
    RandomIo before(disk, io);
    ASSERT_TRUE(before.wait(kHung)) << before.completed();
    EXPECT_EQ(before.error(), "");
  }
  EXPECT_EQ(disk->discard(0, 8192), 0);  // for the next model
  RandomIo during(disk, io);
  touch(release());
  ASSERT_TRUE(during.wait(kHung)) << during.completed();
  EXPECT_EQ(during.error(), "");
  expect_soon(&DeviceStatistics::late_answers, kLate);

  // What the handler has had is used again.
  unlink(release().c_str());
  EXPECT_EQ(disk->discard(0, 8192), 0);
  RandomIo after(disk, io);
  ASSERT_TRUE(after.wait(kHung)) << after.completed();
  EXPECT_EQ(after.error(), "");
  EXPECT_EQ(statistics().timeout_failures, kLate);
}

INSTANTIATE_TEST_SUITE_P(
    , LateDataTest,
    testing::Combine(testing::Values(LateShape{"Inline", "late", false},
                                     LateShape{"Workers", "late", true},
                                     LateShape{"MovesInline", "late_moving", false},
                                     LateShape{"MovesOnWorkers", "late_moving", true}),
                     testing::ValuesIn(kModes)),
    [](const auto& param_info) { return name_of_both(param_info); });

TEST_F(TimeoutTest, WarnedRequestsGoOn) {
  add_late("late", true).io_timeout_action = TimeoutAction::kWarn;
  ASSERT_TRUE(start().failed.empty());
  touch(hold());
  submit(driver().disk(0));
  expect_soon(&DeviceStatistics::timed_out, kLate);
  for (const auto& result : results_) EXPECT_EQ(result, 1) << "it waits";
  unlink(hold().c_str());
  touch(release());
  expect_all_to_end_with(0);
  EXPECT_EQ(statistics().timeout_failures, 0u);
  EXPECT_EQ(statistics().late_answers, 0u);
}

TEST_F(TimeoutTest, WhatWaitsForAWorkerFailsAndIsNeverServed) {
  add_late("late", true).workers = 1;
  ASSERT_TRUE(start().failed.empty());
  touch(hold());
  submit(driver().disk(0));
  expect_all_to_end_with(-ETIMEDOUT);
  unlink(hold().c_str());
  touch(release());
  expect_soon(&DeviceStatistics::late_answers, 1);
  EXPECT_EQ(statistics().timeout_failures, kLate);
  EXPECT_EQ(statistics().late_answers, 1u);
  std::vector<std::byte> data(size_t{kSectors} * 512, std::byte{7});
  EXPECT_EQ(driver().disk(0)->read(kSectors, kSectors, data.data()), 0);
  EXPECT_EQ(data, std::vector<std::byte>(data.size())) << "the write has reached the handler";
}

// Its buffers are all that there are: requests wait for it, though no longer than it takes.
TEST_F(TimeoutTest, AHandlerWithoutAnotherBufferHasItsRequestsUntilItAnswers) {
  add_late("late_own", false).buffer = BufferOption::kCopy;
  ASSERT_TRUE(start().failed.empty());
  touch(hold());
  submit(driver().disk(0));
  expect_soon(&DeviceStatistics::timed_out, kLate);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (const auto& result : results_) EXPECT_EQ(result, 1) << "it waits";
  unlink(hold().c_str());
  touch(release());
  expect_all_to_end_with(-ETIMEDOUT);
  EXPECT_EQ(statistics().late_answers, kLate);
  std::vector<std::byte> data(size_t{kSectors} * 512);
  for (unsigned i = 0; i < kLate; ++i)
    EXPECT_EQ(driver().disk(0)->read(i * kSectors, kSectors, data.data()), 0);
  EXPECT_EQ(data, std::vector<std::byte>(data.size()));
}

// The handler must not be closed while it has something of a request.
TEST_F(TimeoutTest, RestartAndStopWaitForWhatTheHandlerHas) {
  add_late("late", false);
  ASSERT_TRUE(start().failed.empty());
  touch(hold());
  submit(driver().disk(0));
  expect_all_to_end_with(-ETIMEDOUT);
  EXPECT_EQ(error_of_task(runner_->restart("disk")), "the handler does not answer its requests");
  std::thread backend([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    touch(release());
  });
  stop();  // returns when the handler is closed; it ends the process if that is before
  backend.join();
}

}  // namespace
}  // namespace fake
