// SPDX-License-Identifier: MIT
// Clocks that jump, as when the time is set or the machine stands still for a while, lose no
// request and no device.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "adopt_fixture.h"
#include "random_io.h"
#include "support/clocks.h"

namespace fake {
namespace {

using namespace std::chrono_literals;
using ublk_runner::TimeoutAction;

class ClockTest : public RunnerTest {
 protected:
  static constexpr uint32_t kRequests = kSanitized ? 2000 : 10000;

  void start_files(std::chrono::seconds timeout, TimeoutAction action) {
    for (const std::string io : {"ring", "workers"}) {
      DeviceConfig& device = add(
          io, "file", {{"path", dir_ + '/' + io}, {"size", "8M"}, {"create", "true"}, {"io", io}});
      device.io_timeout = timeout;
      device.io_timeout_action = action;
    }
    config_.statistics = true;
    ASSERT_TRUE(start().failed.empty());
  }

  // Random I/O on all devices while `jump` is called again and again.
  void expect_io_to_go_on(const std::function<void()>& jump) {
    std::vector<std::unique_ptr<RandomIo>> ios;
    for (uint32_t id = 0; id < config_.devices.size(); ++id)
      ios.push_back(std::make_unique<RandomIo>(
          driver().disk(id), RandomIo::Options{.requests = kRequests, .max_sectors = 64}));
    const auto end = std::chrono::steady_clock::now() + kHung;
    for (const auto& io : ios) {
      while (!io->wait(1ms) && std::chrono::steady_clock::now() < end) {
        jump();
        g_main_context_iteration(nullptr, FALSE);
      }
      EXPECT_EQ(io->completed(), kRequests);
      EXPECT_EQ(io->error(), "");
    }
  }
};

TEST_F(ClockTest, TheWallClockMayBeSetAtAnyTime) {
  start_files(30s, TimeoutAction::kFail);
  int jumps = 0;
  // Years forth and back, and a little back each time.
  expect_io_to_go_on(
      [&] { test::shift_wall_clock(++jumps % 2 == 0 ? -100'000'001s : 100'000'000s); });
  EXPECT_GT(jumps, 0);
}

// All threads stop with requests in flight, which then seem to have hung: that is told, and no
// more.
TEST_F(ClockTest, AProcessThatStandsStillFindsItsRequestsAgain) {
  start_files(1s, TimeoutAction::kWarn);
  int jumps = 0;
  expect_io_to_go_on([&] {
    if (++jumps != 5) return;
    const pid_t helper = fork();
    if (helper == 0) {
      kill(getppid(), SIGSTOP);
      usleep(1'500'000);
      kill(getppid(), SIGCONT);
      _exit(0);
    }
    int status = -1;
    EXPECT_EQ(waitpid(helper, &status, 0), helper);
    EXPECT_EQ(status, 0);
  });
  EXPECT_EQ(error_of_task(runner_->restart("workers")), "");
}

// ---------------------------------------------------------------- adoption --

class AdoptionClockTest : public AdoptTest {
 protected:
  static constexpr std::chrono::seconds kYear{365 * 24 * 3600};

  void TearDown() override {
    AdoptTest::TearDown();
    test::shift_boot_clock(-shifted_);
  }

  void shift(std::chrono::seconds by) {
    test::shift_boot_clock(by);
    shifted_ += by;
  }

  // Leaves a device whose I/O is held since `ago`.
  void leave_held_device(std::chrono::nanoseconds ago) {
    add_file("disk");
    leave_device();
    save("disk", kCookie);
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    const auto since = std::chrono::seconds(now.tv_sec) - ago;
    insert_saved("\"settings\"", "\"held_since_ns\": " + std::to_string(since / 1ns) + ", ");
  }

  // Adopts it, with a jump of the clock after the device was opened and before its first request.
  // How long its I/O was held, as the log says it.
  std::chrono::milliseconds adopt(std::chrono::seconds jump) {
    ublk::UniqueFd fence(open((dir_ + "/disk").c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(flock(fence.get(), LOCK_EX), 0);
    std::thread jumps([&] {
      EXPECT_EQ(in_flight_.wait_for(50ms), std::future_status::timeout);
      shift(jump);
      fence.reset();
    });
    testing::internal::CaptureStderr();
    const StartSummary summary = start();
    const std::string log = testing::internal::GetCapturedStderr();
    jumps.join();
    EXPECT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
    EXPECT_EQ(in_flight_.get(), 0);
    EXPECT_EQ(runner_->find("disk")->state(), ublk_runner::ManagedDevice::State::kLive);
    long long held = -1;
    const std::string said = "its I/O was held for ";
    const size_t at = log.find(said);
    EXPECT_NE(at, std::string::npos) << log;
    if (at != std::string::npos) std::sscanf(log.c_str() + at + said.size(), "%lld ms", &held);
    return std::chrono::milliseconds(held);
  }

 private:
  std::chrono::seconds shifted_{0};
};

TEST_F(AdoptionClockTest, TheMachineMaySleepMeanwhile) {
  leave_held_device(1s);
  const auto held = adopt(kYear);
  EXPECT_GE(held, kYear + 1s);
  EXPECT_LT(held, kYear + 1s + kHung);
}

TEST_F(AdoptionClockTest, TheMachineMayBeRestoredFromAnImage) {
  leave_held_device(1s);
  EXPECT_EQ(adopt(-kYear), 0ms);
}

// Of a state file that somebody has damaged.
TEST_F(AdoptionClockTest, ATimeThatCannotBeIsNoTime) {
  add_file("disk");
  leave_device();
  save("disk", kCookie);
  insert_saved("\"settings\"", "\"held_since_ns\": -9223372036854775808, ");
  testing::internal::CaptureStderr();
  const StartSummary summary = start();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
  EXPECT_EQ(in_flight_.get(), 0);
  EXPECT_NE(log.find("its runner was killed"), std::string::npos) << log;
}

}  // namespace
}  // namespace fake
