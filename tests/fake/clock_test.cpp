// SPDX-License-Identifier: MIT
// Clocks that jump, as when the time is set or the machine stands still for a while, lose no
// request and no device.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "random_io.h"
#include "runner_fixture.h"
#include "support/wall_clock.h"

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

}  // namespace
}  // namespace fake
