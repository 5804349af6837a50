// SPDX-License-Identifier: MIT
// A handler is closed and opened anew under load, and a device of a dead server is taken over.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "adopt_fixture.h"
#include "random_io.h"
#include "test_data.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using ublk_runner::BatchOption;
using ublk_runner::BufferOption;
using ublk_runner::ManagedDevice;

// ------------------------------------------------------------------ restart --

struct RestartMode {
  const char* name;
  BufferOption buffer;
  BatchOption batch_io;
  const char* io;
};
std::ostream& operator<<(std::ostream& out, const RestartMode& mode) { return out << mode.name; }

class RestartTest : public RunnerRecoveryTest, public testing::WithParamInterface<RestartMode> {};

TEST_P(RestartTest, NoRequestIsLostAndNoDataIsWrong) {
  DeviceConfig& device = add_file("disk", {{"io", GetParam().io}});
  device.queues = 2;
  device.buffer = GetParam().buffer;
  device.batch_io = GetParam().batch_io;
  config_.buffer_memory = 1 << 20;
  const StartSummary summary = start();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  RandomIo io(driver().disk(0),
              {.depth = 64, .requests = kSanitized ? 3000u : 20000u, .max_sectors = 128});
  int restarts = 0;
  while (!io.wait(std::chrono::milliseconds(1))) {
    ASSERT_EQ(error_of_task(runner_->restart("disk")), "");
    ASSERT_LT(++restarts, 100000);
  }
  EXPECT_EQ(io.error(), "");
  EXPECT_GT(restarts, 2);
}

INSTANTIATE_TEST_SUITE_P(
    , RestartTest,
    testing::Values(
        RestartMode{"Copy", BufferOption::kCopy, BatchOption::kOff, "ring"},
        RestartMode{"CopyWorkers", BufferOption::kCopy, BatchOption::kOff, "workers"},
        RestartMode{"GetData", BufferOption::kGetData, BatchOption::kOff, "ring"},
        RestartMode{"GetDataWorkers", BufferOption::kGetData, BatchOption::kOff, "workers"},
        RestartMode{"UserCopy", BufferOption::kUserCopy, BatchOption::kOff, "ring"},
        RestartMode{"UserCopyBatchWorkers", BufferOption::kUserCopy, BatchOption::kOn, "workers"},
        RestartMode{"CopyBatch", BufferOption::kCopy, BatchOption::kOn, "ring"},
        RestartMode{"CopyBatchWorkers", BufferOption::kCopy, BatchOption::kOn, "workers"}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

TEST_F(RunnerRecoveryTest, ARestartThatFailsLeavesTheOldHandler) {
  add_file("disk");
  ASSERT_TRUE(start().failed.empty());
  std::vector<std::byte> data = test::pattern(4096);
  const auto disk = driver().disk(0);
  ASSERT_EQ(disk->write(8, 8, data.data()), 0);

  DeviceConfig wrong = runner_->find("disk")->config();
  wrong.options["path"].value = dir_ + "/no/such/file";
  const std::string error = error_of_task(runner_->find("disk")->restart(to(wrong)));
  EXPECT_NE(error.find("/no/such/file"), std::string::npos) << error;
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
  std::vector<std::byte> again(4096);
  EXPECT_EQ(disk->read(8, 8, again.data()), 0);
  EXPECT_EQ(again, data);
}

TEST_F(RunnerRecoveryTest, ARestartDoesNotChangeWhatTheKernelKnows) {
  add_file("disk");
  ASSERT_TRUE(start().failed.empty());
  DeviceConfig other = runner_->find("disk")->config();
  other.max_io_size = 32 << 10;
  EXPECT_EQ(error_of_task(runner_->find("disk")->restart(to(other))),
            "the kernel can't change it while the device lives: the largest I/O");
}

TEST_F(RunnerRecoveryTest, AnotherSizeIsToldToTheKernel) {
  add_file("disk");
  ASSERT_TRUE(start().failed.empty());
  const auto disk = driver().disk(0);
  EXPECT_EQ(error_of_task(runner_->resize("disk", 16 << 20)), "");
  EXPECT_EQ(disk->sectors(), (16u << 20) / 512);
  std::vector<std::byte> data = test::pattern(512);
  EXPECT_EQ(disk->write((16u << 20) / 512 - 1, 1, data.data()), 0);
}

// It has served it at the old size, and must go on to.
TEST_F(RunnerRecoveryTest, ARestartOfADeviceWhoseStorageHasGrownOnAKernelThatCannotTakeItIn) {
  use({.features = kLinux6_12});
  std::ofstream(dir_ + "/disk") << ' ';
  std::filesystem::resize_file(dir_ + "/disk", 8 << 20);
  add("disk", "file", {{"path", dir_ + "/disk"}});
  ASSERT_TRUE(start().failed.empty());
  const auto disk = driver().disk(0);
  std::vector<std::byte> data = test::pattern(4096);
  ASSERT_EQ(disk->write(8, 8, data.data()), 0);
  std::filesystem::resize_file(dir_ + "/disk", 16 << 20);
  EXPECT_NE(error_of_task(runner_->restart("disk")).find("UBLK_F_UPDATE_SIZE"), std::string::npos);
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
  EXPECT_EQ(disk->sectors(), (8u << 20) / 512);
  std::vector<std::byte> again(4096);
  EXPECT_EQ(disk->read(8, 8, again.data()), 0);
  EXPECT_EQ(again, data);
}

// The next runner would make it 8M again.
TEST_F(RunnerRecoveryTest, ARestartWhoseStateCannotBeSavedChangesNothing) {
  add_file("disk");
  state_dir_ = dir_ + "/state";
  ASSERT_TRUE(start().failed.empty());
  std::filesystem::create_directory(state_dir_ + "/.#disk.json");
  const std::string error = error_of_task(runner_->resize("disk", 16 << 20));
  EXPECT_NE(error.find("/disk.json"), std::string::npos) << error;
  EXPECT_EQ(driver().disk(0)->sectors(), (8u << 20) / 512);
  std::filesystem::remove(state_dir_ + "/.#disk.json");
  EXPECT_EQ(error_of_task(runner_->resize("disk", 16 << 20)), "");
  EXPECT_EQ(driver().disk(0)->sectors(), (16u << 20) / 512);
}

TEST_F(RunnerRecoveryTest, DataThatWouldBeLostIsKept) {
  add("disk", "memory", {{"size", "8M"}});
  ASSERT_TRUE(start().failed.empty());
  EXPECT_EQ(error_of_task(runner_->restart("disk")),
            "its data would be lost: handler memory keeps it in this process");
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
}

// -------------------------------------------------------------------- adopt --

TEST_F(AdoptTest, WaitingRequestsAreServed) {
  add_file("disk");
  leave_device();
  std::vector<std::byte> data = test::pattern(512);
  std::ofstream(dir_ + "/disk", std::ios::in | std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), 512);
  save("disk", kCookie);
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 1u);
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  EXPECT_EQ(in_flight_.get(), 0);
  EXPECT_EQ(data_, data);
  EXPECT_EQ(kernel_state(), abi::DeviceState::kLive);
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
}

TEST_F(AdoptTest, WithoutItsHandlerADeviceIsHeldUntilThereIsOne) {
  add_file("disk");
  leave_device();
  std::filesystem::rename(dir_ + "/disk", dir_ + "/away");
  save("disk", kCookie);
  ASSERT_EQ(start().started, 1u);
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kHeld);
  EXPECT_NE(runner_->find("disk")->trouble(), "");
  EXPECT_EQ(in_flight_.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  std::filesystem::rename(dir_ + "/away", dir_ + "/disk");
  ASSERT_TRUE(eventually([&] {
    return runner_->find("disk")->state() == ManagedDevice::State::kLive;
  })) << runner_->find("disk")->trouble();
  EXPECT_EQ(in_flight_.get(), 0);
  EXPECT_EQ(runner_->find("disk")->trouble(), "");
}

// Both queues, or one of them.
TEST_F(AdoptTest, QueuesThatCannotBeOpenedAreHeldUntilTheyCan) {
  const std::string no_open = dir_ + "/no_open";
  const std::string no_close = dir_ + "/no_close";
  for (const char* which : {" ", "0", "1"}) {
    config_.devices.clear();
    add("disk", "touchy",
        {{"path", dir_ + "/disk"}, {"size", "8M"}, {"no_open", no_open}, {"no_close", no_close}})
        .queues = 2;
    leave_device(ublk::abi::kFlagUserRecovery | ublk::abi::kFlagUserRecoveryReissue, 2);
    save("disk", kCookie);
    std::string text = saved_text();
    text.replace(text.find("\"file\""), 6,
                 "\"touchy\", \"no_open\": \"" + no_open + "\", \"no_close\": \"" + no_close + '"');
    std::ofstream(state_dir_ + "/disk.json") << text;
    std::ofstream(no_open) << which;
    ASSERT_EQ(start().started, 1u);
    const auto device = [this] { return runner_->find("disk"); };
    EXPECT_EQ(device()->state(), ManagedDevice::State::kHeld);
    EXPECT_NE(device()->trouble().find("queue_open"), std::string::npos) << device()->trouble();
    EXPECT_EQ(in_flight_.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
    std::filesystem::remove(no_open);
    ASSERT_TRUE(eventually([&] { return device()->state() == ManagedDevice::State::kLive; }))
        << device()->trouble();
    EXPECT_EQ(in_flight_.get(), 0);
    ASSERT_EQ(error_of_task(runner_->remove("disk", true)), "");
    stop();
  }
}

// What waits for a handler that does not come fails, at once.
TEST_F(AdoptTest, AHeldDeviceIsStoppedAtOnce) {
  add_file("disk");
  leave_device();
  std::filesystem::remove(dir_ + "/disk");
  save("disk", kCookie);
  ASSERT_EQ(start().started, 1u);
  ASSERT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kHeld);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(error_of_task(runner_->find("disk")->stop()), "");
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(2));
  EXPECT_EQ(in_flight_.get(), -EIO);
}

TEST_F(AdoptTest, PastItsTimeoutAHeldDeviceFailsItsRequestsAndThenServesThem) {
  add_file("disk").recovery_timeout = std::chrono::seconds(1);
  leave_device();
  std::filesystem::rename(dir_ + "/disk", dir_ + "/away");
  save("disk", kCookie);
  insert_saved("\"queue_depth\"", "\"recovery_timeout\": \"1\", ");
  ASSERT_EQ(start().started, 1u);
  ASSERT_TRUE(eventually(
      [&] { return in_flight_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }));
  EXPECT_EQ(in_flight_.get(), -EIO);
  std::filesystem::rename(dir_ + "/away", dir_ + "/disk");
  ASSERT_TRUE(eventually([&] {
    return runner_->find("disk")->state() == ManagedDevice::State::kLive;
  })) << runner_->find("disk")->trouble();
  EXPECT_EQ(driver().disk(id_)->read(0, 1, data_.data()), 0);
}

// What it has left on its way to the storage must be fenced, though none of it waits here.
TEST_F(AdoptTest, AfterADeviceThatDiedWithItsRunnerTheHandlerRecovers) {
  add_file("disk");
  leave_device(0);
  save("disk", kCookie);
  EXPECT_EQ(in_flight_.get(), -EIO);
  // By this it can be seen: "file" does not make anew what was there.
  std::filesystem::remove(dir_ + "/disk");
  const StartSummary summary = start();
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_NE(summary.failed.front().cause.find("and is gone"), std::string::npos)
      << summary.failed.front().cause;
  stop();
  EXPECT_TRUE(start().failed.empty()) << "it was told once";
}

TEST_F(AdoptTest, ThePredecessorsLockIsWaitedFor) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  // As the dead runner's I/O does, somebody holds the file until a moment later.
  const int holder = open((dir_ + "/disk").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(holder, LOCK_EX), 0);
  std::thread release([&] {
    EXPECT_EQ(in_flight_.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout)
        << "served before the fence";
    close(holder);
  });
  const StartSummary summary = start();
  release.join();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  EXPECT_EQ(in_flight_.get(), 0);
}

TEST_F(AdoptTest, AStrangersDeviceIsNotTouched) {
  add_file("disk");
  leave_device();
  save("disk", kCookie + 1);
  config_.devices.clear();
  EXPECT_EQ(start().started, 0u);
  EXPECT_EQ(kernel_state(), abi::DeviceState::kQuiesced);
  EXPECT_FALSE(std::filesystem::exists(state_dir_ + "/disk.json"));
  delete_device();
  EXPECT_EQ(in_flight_.get(), -EIO);
}

// Else the name would be that of the next device which gets the number.
TEST_F(AdoptTest, TheNameOfADeviceThatIsGoneGoes) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  delete_device();
  EXPECT_EQ(in_flight_.get(), -EIO);
  std::filesystem::create_directory(dir_ + "/ublk");
  std::filesystem::create_symlink("/dev/ublkb" + std::to_string(id_), dir_ + "/ublk/disk");
  config_.devices.clear();
  EXPECT_EQ(start().started, 0u);
  EXPECT_FALSE(std::filesystem::is_symlink(dir_ + "/ublk/disk"));
}

TEST_F(AdoptTest, ANewerReleasesStateIsLeftAlone) {
  add_file("disk");
  leave_device();
  save("disk", kCookie, "2");
  expect_left_alone();
}

TEST_F(AdoptTest, ADeviceWithAKeyThatIsNotKnownIsLeftAlone) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  insert_saved("\"queue_depth\"", "\"io_timeout_action\": \"retry\", ");
  expect_left_alone();
}

// As it is when /run is full: a former state is better than a device that nobody serves.
TEST_F(AdoptTest, WhatCannotBeSavedOrLinkedIsServedAllTheSame) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  insert_saved("\"settings\"", "\"configured\": false, ");
  std::filesystem::create_directory(state_dir_ + "/.#disk.json");
  std::ofstream(dir_ + "/ublk") << "no folder";
  const StartSummary summary = start();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
  EXPECT_EQ(in_flight_.get(), 0);
}

}  // namespace
}  // namespace fake
