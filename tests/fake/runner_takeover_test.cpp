// SPDX-License-Identifier: MIT
// A device of a dead server can't be taken over at once: it is tried again until it can be, it is
// gone, or the runner ends.
#include <gtest/gtest.h>
#include <service.h>
#include <ublk/unique_fd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "adopt_fixture.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using ublk_runner::ManagedDevice;
using ublk_runner::status_of_start;

class TakeoverTest : public AdoptTest {
 protected:
  // A device whose first takeover fails.
  StartSummary start_in_vain() {
    add_file("disk");
    leave_device();
    save("disk", kCookie);
    driver().faults().fail(abi::ControlOp::kStartUserRecovery, EIO);
    return start();
  }

  ManagedDevice::State state() const { return runner_->find("disk")->state(); }
  void expect_soon(ManagedDevice::State wanted) const {
    EXPECT_TRUE(eventually([&] { return state() == wanted; }))
        << runner_->find("disk")->state_name();
  }
};

TEST_F(TakeoverTest, IsTriedAgain) {
  const StartSummary summary = start_in_vain();
  EXPECT_EQ(summary.started, 0u);
  EXPECT_EQ(summary.left, 1u);
  EXPECT_EQ(status_of_start(summary, false), ublk_runner::kExitTryAgain);
  ASSERT_EQ(state(), ManagedDevice::State::kLeft);
  EXPECT_NE(runner_->find("disk")->trouble().find("EIO"), std::string::npos)
      << runner_->find("disk")->trouble();
  EXPECT_EQ(error_of_task(runner_->remove("disk", true)),
            "it is not taken over yet: " + runner_->find("disk")->trouble());
  expect_soon(ManagedDevice::State::kLive);
  EXPECT_EQ(in_flight_.get(), 0);
  EXPECT_EQ(runner_->find("disk")->trouble(), "");
  EXPECT_EQ(kernel_state(), abi::DeviceState::kLive);
}

TEST_F(TakeoverTest, IsTriedAgainIfTheKernelCannotTellOfTheDevice) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  driver().faults().fail(abi::ControlOp::kGetDevInfo, ENOMEM);
  const StartSummary summary = start();
  EXPECT_EQ(summary.left, 1u);
  EXPECT_EQ(status_of_start(summary, false), ublk_runner::kExitTryAgain);
  expect_soon(ManagedDevice::State::kLive);
  EXPECT_EQ(in_flight_.get(), 0);
}

// Another device's start takes until then.
TEST_F(TakeoverTest, CountsThoughItSucceedsWhileOthersStart) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  add_file("other");
  driver().faults().fail(abi::ControlOp::kStartUserRecovery, EIO);
  Held adding = driver().faults().hold(abi::ControlOp::kAddDev);
  const std::jthread releaser([&] {
    EXPECT_TRUE(adding.wait(kHung));
    in_flight_.wait();
    adding.release();
  });
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 2u);
  EXPECT_EQ(summary.left, 0u);
  EXPECT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  EXPECT_EQ(status_of_start(summary, false), ublk_runner::kExitOk);
}

TEST_F(TakeoverTest, IsLeftWhenTheRunnerEnds) {
  start_in_vain();
  // As long as somebody has it open the kernel says EBUSY.
  ublk::UniqueFd server = driver().open_device(id_);
  const auto trouble = [&] { return runner_->find("disk")->trouble(); };
  EXPECT_TRUE(eventually([&] { return trouble().find("EBUSY") != std::string::npos; }))
      << trouble();
  const auto began = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  EXPECT_EQ(kernel_state(), abi::DeviceState::kQuiesced);
  server.reset();
  EXPECT_EQ(start().started, 1u);
  EXPECT_EQ(in_flight_.get(), 0);
}

TEST_F(TakeoverTest, EndsWithItsDevice) {
  start_in_vain();
  delete_device();
  EXPECT_EQ(in_flight_.get(), -EIO);
  EXPECT_TRUE(eventually([&] { return runner_->devices().empty(); }));
  EXPECT_FALSE(std::filesystem::exists(state_dir_ + "/disk.json"));
}

}  // namespace
}  // namespace fake
