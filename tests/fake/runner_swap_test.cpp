// SPDX-License-Identifier: MIT
// The handler of a device is changed while the kernel has the device, and something goes wrong: its
// I/O waits, and goes on with the right data.
#include <gtest/gtest.h>
#include <log.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <regex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "adopt_fixture.h"
#include "test_data.h"

namespace fake {
namespace {

using namespace std::chrono_literals;
using ublk_runner::BufferOption;
using ublk_runner::ManagedDevice;

// With handler "touchy", of two queues.
class SwapTest : public RunnerRecoveryTest {
 protected:
  void serve() {
    DeviceConfig& device = add("disk", "touchy",
                               {{"path", dir_ + "/disk"},
                                {"size", "8M"},
                                {"no_open", no_open()},
                                {"no_close", no_close()},
                                {"most_queues", "0"},
                                {"as_asked", "true"},
                                {"hang", hang()}});
    device.queues = 2;
    device.recovery_timeout = recovery_timeout_;
    const StartSummary summary = start();
    ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
    disk_ = driver().disk(0);
    ASSERT_EQ(disk_->write(8, 8, data_.data()), 0);
  }
  void TearDown() override {
    disk_.reset();
    RunnerRecoveryTest::TearDown();
  }

  std::string no_open() const { return dir_ + "/no_open"; }
  std::string hang() const { return dir_ + "/hang"; }
  std::string no_close() const { return dir_ + "/no_close"; }
  static void touch(const std::string& path) { std::ofstream(path) << ' '; }
  ManagedDevice& device() { return *runner_->find("disk"); }

  // From now on, until it is answered.
  void begin_read() {
    result_ = 1;
    disk_->submit({.op = ublk::Operation::kRead, .sector = 8, .sectors = 8, .data = again_.data()},
                  [this](int result) { result_ = result; });
  }
  void expect_the_data() {
    ASSERT_TRUE(eventually([this] { return result_ != 1; }));
    EXPECT_EQ(result_, 0);
    EXPECT_EQ(again_, data_);
  }

  // Each handler has the disk's file open once.
  int handlers() const {
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      found += std::filesystem::read_symlink(entry, gone) == dir_ + "/disk";
    }
    return found;
  }

  std::chrono::seconds recovery_timeout_ = 60s;
  std::shared_ptr<Disk> disk_;
  const std::vector<std::byte> data_ = test::pattern(4096);
  std::vector<std::byte> again_ = std::vector<std::byte>(4096);
  std::atomic<int> result_{0};
};

TEST_F(SwapTest, QueuesThatCannotBeOpenedAreHeldUntilTheyCan) {
  serve();
  touch(no_open());
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(device().state(), ManagedDevice::State::kHeld);
  begin_read();
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(device().state(), ManagedDevice::State::kHeld);
  EXPECT_EQ(result_, 1);
  std::filesystem::remove(no_open());
  expect_the_data();
  EXPECT_EQ(device().state(), ManagedDevice::State::kLive);
}

// Its queues are swapped in each try to open the handler.
TEST_F(SwapTest, WhatFailsAfterTheTimeoutFailsAlsoAfterFurtherTries) {
  recovery_timeout_ = 1s;
  serve();
  touch(no_open());
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  for (int tries = 0; tries < 2; ++tries) {
    begin_read();
    ASSERT_TRUE(eventually([this] { return result_ != 1; }));
    EXPECT_EQ(result_, -EIO);
    EXPECT_NE(error_of_task(runner_->restart("disk")), "");
    EXPECT_EQ(device().state(), ManagedDevice::State::kHeld);
  }
  std::filesystem::remove(no_open());
  DeviceConfig patient = device().config();
  patient.recovery_timeout = 60s;
  EXPECT_EQ(error_of_task(device().restart(to(patient))), "");
  begin_read();
  expect_the_data();

  // The next time it waits again.
  touch(no_open());
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  begin_read();
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(result_, 1);
  std::filesystem::remove(no_open());
  expect_the_data();
}

TEST_F(SwapTest, AfterAQueueThatDoesNotCloseItsIoWaits) {
  serve();
  touch(no_close());
  EXPECT_NE(error_of_task(runner_->restart("disk")), "");
  begin_read();
  std::filesystem::remove(no_close());
  expect_the_data();
  EXPECT_TRUE(eventually([this] { return device().state() == ManagedDevice::State::kLive; }));
  EXPECT_TRUE(eventually([this] { return handlers() == 1; })) << handlers();
}

TEST_F(SwapTest, AHandlerOfFewerQueuesIsRefused) {
  serve();
  DeviceConfig fewer = device().config();
  fewer.options["as_asked"].value = "false";
  fewer.options["most_queues"].value = "1";
  EXPECT_EQ(error_of_task(device().restart(to(fewer))),
            "the device has 2 queues, the handler now takes 1 at most");
  EXPECT_EQ(device().state(), ManagedDevice::State::kLive);
  begin_read();
  expect_the_data();
}

// As after a restart with fewer I/O threads: the kernel has the device with its queues.
TEST_F(SwapTest, TheHandlerIsToldOfTheQueuesThatThereAre) {
  serve();
  DeviceConfig fewer = device().config();
  fewer.queues = 1;
  EXPECT_EQ(error_of_task(device().restart(to(fewer))), "");
  begin_read();
  expect_the_data();
}

// Each open that is given up keeps a thread.
TEST_F(SwapTest, AHandlerThatHangsIsNotOpenedAgainAndAgain) {
  open_limit_ = 3s;
  serve();
  touch(hang());
  EXPECT_NE(error_of_task(runner_->restart("disk")).find("open: no answer within"),
            std::string::npos);
  EXPECT_EQ(device().state(), ManagedDevice::State::kHeld);
  begin_read();
  const auto end = std::chrono::steady_clock::now() + 2s;
  while (std::chrono::steady_clock::now() < end) g_main_context_iteration(nullptr, FALSE);
  // One of the new handler, one of the old; the file had a byte before.
  EXPECT_EQ(std::filesystem::file_size(hang()), 3u);
  EXPECT_NE(error_of_task(runner_->restart("disk")).find("has not returned"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(hang()), 3u);
  std::filesystem::remove(hang());
  expect_the_data();
  EXPECT_EQ(device().state(), ManagedDevice::State::kLive);
  EXPECT_TRUE(eventually([this] { return handlers() == 1; })) << handlers();
}

// As each reload does it with a device that could not be started.
TEST_F(SwapTest, AnAddWhoseHandlerHangsIsNotTriedAgainUntilItReturns) {
  open_limit_ = 1s;
  serve();
  DeviceConfig second = device().config();
  second.name = "second";
  second.options["path"].value = dir_ + "/second";
  const auto add = [&](Runner& runner) -> ublk_runner::Task<> {
    co_await runner.add(second, true);
  };
  touch(hang());
  EXPECT_NE(error_of_task(add(*runner_)).find("open: no answer within"), std::string::npos);
  EXPECT_NE(error_of_task(add(*runner_)).find("has not returned"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(hang()), 2u) << "it was opened once";
  std::filesystem::remove(hang());
  EXPECT_TRUE(eventually([&] { return error_of_task(add(*runner_)).empty(); }));
}

// A restart that waits for that of a reload must not bring the old storage back.
TEST_F(SwapTest, ARestartBehindAnotherTakesWhatThatHasBrought) {
  serve();
  const std::string other = dir_ + "/other";
  touch(hang());
  bool changed = false;
  bool restarted = false;
  ublk_runner::TaskSet tasks;
  const auto run = [](ublk_runner::Task<> task, bool& done) -> ublk_runner::Task<> {
    co_await task;
    done = true;
  };
  tasks.start(run(
      device().restart([&other](DeviceConfig& config) { config.options["path"].value = other; }),
      changed));
  EXPECT_TRUE(eventually([this] { return std::filesystem::file_size(hang()) == 2; }));
  tasks.start(run(runner_->restart("disk"), restarted));
  std::filesystem::remove(hang());
  EXPECT_TRUE(eventually([&] { return changed && restarted; }));
  EXPECT_EQ(device().config().options.at("path").value, other);
  ASSERT_EQ(disk_->write(16, 8, data_.data()), 0);
  EXPECT_GT(std::filesystem::file_size(other), 16u * 512);
}

// The size that it has had is the old one's, which must be able to come back while a disk is in
// use.
TEST_F(SwapTest, ARestartThatFailsLeavesTheOldSize) {
  users_.push_back({"a mount"});
  serve();
  DeviceConfig larger = device().config();
  larger.options["size"].value = "16M";
  touch(no_open());
  EXPECT_NE(error_of_task(device().restart(to(larger))), "");
  EXPECT_EQ(device().size(), 8u << 20);
  std::filesystem::remove(no_open());
  begin_read();
  expect_the_data();
  EXPECT_TRUE(eventually([this] { return device().state() == ManagedDevice::State::kLive; }));
  EXPECT_EQ(device().size(), 8u << 20);
  EXPECT_EQ(disk_->sectors(), (8u << 20) / 512);
}

// Whoever asks for it while it starts finds it undone, not half way.
TEST_F(SwapTest, ARemovalWaitsForAStartThatFails) {
  serve();
  DeviceConfig other = device().config();
  other.name = "other";
  const auto adding = [](Runner& runner, DeviceConfig config,
                         std::string& error) -> ublk_runner::Task<> {
    try {
      co_await runner.add(std::move(config), false);
    } catch (const std::exception& e) {
      error = e.what();
    }
  };
  std::string error;
  ublk_runner::TaskSet tasks;
  tasks.start(adding(*runner_, other, error));
  EXPECT_EQ(error_of_task(runner_->remove("other", true)), "");
  EXPECT_EQ(runner_->find("other"), nullptr);
  EXPECT_EQ(driver().nr_devices(), 1u);
  EXPECT_TRUE(eventually([&] { return !error.empty(); }));
}

// The next runner would go on with the old file.
TEST_F(SwapTest, WhatTheNextRunnerCannotBeToldIsNotServed) {
  state_dir_ = dir_ + "/state";
  serve();
  const std::string saved = state_dir_ + "/disk.json";
  DeviceConfig other = device().config();
  const std::string path = dir_ + '/' + std::string(100, 'x');
  other.options["path"].value = path;
  other.settings["path"].value = path;
  std::filesystem::copy_file(dir_ + "/disk", path);

  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = std::filesystem::file_size(saved) + 8;
  signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string error = error_of_task(device().restart(to(other)));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_NE(error.find("disk.json"), std::string::npos) << error;
  EXPECT_EQ(device().state(), ManagedDevice::State::kLive);
  EXPECT_EQ(device().config().options.at("path").value, dir_ + "/disk");

  const std::vector<std::byte> newer = test::pattern(4096, 2);
  ASSERT_EQ(disk_->write(16, 8, newer.data()), 0);
  std::ifstream file(dir_ + "/disk", std::ios::binary);
  file.seekg(16 * 512);
  ASSERT_TRUE(file.read(reinterpret_cast<char*>(again_.data()), 4096));
  EXPECT_EQ(again_, newer) << "it was written elsewhere";
}

// Of a device that waits for its handler: it is over when the device has one.
TEST_F(AdoptTest, ARestartEndsTheTimeout) {
  add_file("disk");
  leave_device();
  std::filesystem::rename(dir_ + "/disk", dir_ + "/away");
  save("disk", kCookie);
  insert_saved("\"handler\"", "\"recovery_timeout\": \"1\", ");
  ASSERT_EQ(start().started, 1u);
  const ManagedDevice& device = *runner_->find("disk");
  EXPECT_EQ(device.state(), ManagedDevice::State::kHeld);
  const auto iterate_for = [](std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) g_main_context_iteration(nullptr, FALSE);
  };
  iterate_for(700ms);  // the next try comes after the timeout
  std::filesystem::rename(dir_ + "/away", dir_ + "/disk");
  EXPECT_EQ(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(device.state(), ManagedDevice::State::kLive);
  in_flight_.get();
  iterate_for(1500ms);
  EXPECT_EQ(driver().disk(id_)->read(0, 1, data_.data()), 0);
}

// It has had no share of the buffers.
TEST_F(RunnerRecoveryTest, AHandlerThatMovesNoDataAnyMoreGetsBuffers) {
  add("disk", "late_moving", {{"size", "1M"}, {"hold", dir_ + "/hold"}, {"release", dir_ + "/x"}})
      .buffer = BufferOption::kUserCopy;
  ASSERT_TRUE(start().failed.empty());
  DeviceConfig other = runner_->find("disk")->config();
  other.handler = "late";
  ASSERT_EQ(error_of_task(runner_->find("disk")->restart(to(other))), "");
  const std::vector<std::byte> data = test::pattern(4096);
  std::vector<std::byte> again(4096);
  EXPECT_EQ(driver().disk(0)->write(8, 8, data.data()), 0);
  EXPECT_EQ(driver().disk(0)->read(8, 8, again.data()), 0);
  EXPECT_EQ(again, data);
}

// They commit what they have served by themselves, with UBLK_F_BATCH_IO. The thread says at its end
// how often it was woken.
TEST_F(RunnerRecoveryTest, AfterARestartWorkersDoNotWakeTheQueuesThread) {
  constexpr unsigned kReads = 300;
  DeviceConfig& device = add(
      "disk", "late",
      {{"size", "1M"}, {"on_workers", "true"}, {"hold", dir_ + "/hold"}, {"release", dir_ + "/x"}});
  device.buffer = BufferOption::kCopy;
  device.batch_io = ublk_runner::BatchOption::kOn;
  ASSERT_TRUE(start().failed.empty());
  ASSERT_EQ(error_of_task(runner_->restart("disk")), "");
  std::vector<std::byte> data(512);
  for (unsigned i = 0; i < kReads; ++i) ASSERT_EQ(driver().disk(0)->read(0, 1, data.data()), 0);

  ublk_runner::set_log_level(ublk_runner::LogLevel::kDebug);
  testing::internal::CaptureStderr();
  stop();
  const std::string said = testing::internal::GetCapturedStderr();
  ublk_runner::set_log_level(ublk_runner::LogLevel::kInfo);
  std::smatch writes;
  ASSERT_TRUE(std::regex_search(said, writes, std::regex("([0-9]+) eventfd writes"))) << said;
  EXPECT_LT(std::stoul(writes[1]), kReads / 2);
}

// The kernel may write into them until this process ends. Handler "own" ends it if it is closed
// before all are given back.
TEST_F(RunnerRecoveryTest, AHandlerWhoseBuffersTheKernelHasIsNotClosed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto leave = [this] {
    state_dir_ = dir_ + "/state";
    users_ = {{"ublkb0 is mounted at /mnt"}};
    add("disk", "own", {{"size", "1M"}}).buffer = BufferOption::kCopy;
    if (!start().failed.empty()) _exit(1);
    stop();
    std::filesystem::remove_all(dir_);
    _exit(0);
  };
  EXPECT_EXIT(leave(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fake
