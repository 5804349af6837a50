// SPDX-License-Identifier: MIT
// Control commands on the real driver: deadlines, hung commands, errors that explain themselves.
#include <gtest/gtest.h>
#include <ublk/error.h>

#include <chrono>
#include <optional>

#include "served_device.h"

namespace {

using namespace std::chrono_literals;
using ublk::Command;
using ublk::Control;
using Clock = std::chrono::steady_clock;

ublk::Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ublk::Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return {0, "none"};
}

TEST(Control, AnswersAboutTheKernel) {
  Control control;
  const uint64_t features = control.features();
  EXPECT_TRUE(features & ublk::abi::kFlagUserCopy);
  EXPECT_TRUE(features & ublk::abi::kFlagUserRecovery);
}

TEST(Control, ErrorsNameCommandDeviceAndCause) {
  Control control;
  const ublk::Error missing = error_of([&] { control.info(4711); });
  EXPECT_EQ(missing.error(), ENODEV);
  EXPECT_STREQ(missing.what(),
               "GET_DEV_INFO of device 4711: No such device (ENODEV): there is no such device");

  ublk::DeviceSpec spec = device_spec(1 << 20);
  spec.info.queue_depth = 0;
  const ublk::Error depth = error_of([&] { control.add(spec.info); });
  EXPECT_EQ(depth.error(), EINVAL);
  EXPECT_NE(std::string(depth.what()).find("ADD_DEV"), std::string::npos) << depth.what();
}

TEST(Control, AddFailsWithTakenIdAndLeavesTheOtherAlone) {
  Control control;
  ublk::Device device(control, device_spec(1 << 20));
  ublk::DeviceSpec same = device_spec(1 << 20);
  same.info.dev_id = device.id();
  EXPECT_EQ(error_of([&] { control.add(same.info); }).error(), EEXIST);
  EXPECT_EQ(control.info(device.id()).dev_id, device.id());
}

TEST(Control, BadParametersLeaveNoDeviceBehind) {
  Control control;
  ublk::DeviceSpec spec = device_spec(1 << 20);
  spec.params.basic.logical_bs_shift = 5;
  spec.info.dev_id = 77;
  EXPECT_EQ(error_of([&] { const ublk::Device device(control, spec); }).error(), EINVAL);
  EXPECT_EQ(error_of([&] { control.info(77); }).error(), ENODEV);
}

TEST(Control, ParametersAndAffinityReadBack) {
  Control control;
  const ublk::Device device(control, device_spec(8 << 20));
  const ublk::abi::Params params = control.params(device.id());
  EXPECT_EQ(params.basic.dev_sectors, (8u << 20) / 512);
  EXPECT_EQ(params.types & ublk::abi::kParamDevt, 0u);
  const std::vector<bool> cpus = control.queue_affinity(device.id(), 0);
  EXPECT_TRUE(cpus.at(0));
}

// A START without served queues waits for ever. Eight of them are what io-wq's default bound takes;
// a ninth command must get through, and each of them must end at its deadline.
TEST(Control, HungCommandsHoldUpNoOtherAndEndAtTheirDeadline) {
  constexpr int kHung = 12;
  Control control;
  std::vector<std::unique_ptr<ublk::Device>> devices;
  for (int i = 0; i < kHung; ++i)
    devices.push_back(std::make_unique<ublk::Device>(control, device_spec(1 << 20)));

  std::vector<int> results(kHung, 1);
  const auto begin = Clock::now();
  for (int i = 0; i < kHung; ++i)
    control.submit(Command::start(devices[i]->id(), getpid()), 3s,
                   [&results, i](int result, const Command&) { results[i] = result; });
  // On any kernel: an io-wq command (ADD with parameters, DEL) goes through meanwhile.
  { const ublk::Device other(control, device_spec(1 << 20)); }
  EXPECT_EQ(control.pending(), static_cast<size_t>(kHung)) << "a START has ended early";
  EXPECT_LT(Clock::now() - begin, 3s) << "the ninth command waited for the hung ones";

  while (control.pending() != 0) EXPECT_NO_THROW(control.features());
  for (const int result : results) EXPECT_EQ(result, -ETIMEDOUT);
  EXPECT_GE(Clock::now() - begin, 3s);
  // Cancelled, they hold no device: each can be deleted.
}

TEST(Control, DestroyedWithACommandUnderWay) {
  Control control;
  ublk::Device device(control, device_spec(1 << 20));
  {
    Control second;
    second.submit(Command::start(device.id(), getpid()), 60s,
                  [](int, const Command&) { FAIL() << "called back after the end"; });
  }
  EXPECT_EQ(control.info(device.id()).state, static_cast<uint16_t>(ublk::abi::DeviceState::kDead));
}

}  // namespace
