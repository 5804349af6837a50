// SPDX-License-Identifier: MIT
// A runner dies at each of its control commands, before the kernel has executed it or after that.
// The next one must go on with the device or put another in its place, and leave no third.
#include <array>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "random_io.h"
#include "runner_fixture.h"
#include "test_data.h"

namespace fake {
namespace {

using namespace std::chrono_literals;
using ublk_runner::ManagedDevice;
using ublk_runner::RecoveryOption;
using ublk_runner::Task;

// What a runner is at when it dies.
enum class Work { kStart, kRemove, kResize, kAdopt };

struct Death {
  const char* name;
  Work work;
  bool executed;  // the command at which it happens
  RecoveryOption recovery = RecoveryOption::kReissue;
};
std::ostream& operator<<(std::ostream& out, const Death& death) { return out << death.name; }

class RunnerDeathTest : public RunnerTest, public testing::WithParamInterface<Death> {
 protected:
  void SetUp() override {
    RunnerTest::SetUp();
    if (IsSkipped()) return;
    state_dir_ = dir_ + "/state";
    DeviceConfig& device =
        add("disk", "file", {{"path", dir_ + "/disk"}, {"size", "8M"}, {"create", "true"}});
    device.recovery = GetParam().recovery;
    device.settings["recovery"].value =
        std::array{"reissue", "fail-io", "none"}[static_cast<size_t>(GetParam().recovery)];
  }

  // As far as the work that is to be cut short needs it, with I/O under way.
  void prepare() {
    const Work work = GetParam().work;
    if (work != Work::kStart) {
      ASSERT_TRUE(start().failed.empty());
    }
    if (work == Work::kAdopt) {
      begin_io();
      die();
    }
    if (work == Work::kStart || work == Work::kAdopt)
      make_runner();
    else
      begin_io();
  }

  void begin_work() {
    done_ = false;
    const auto done = [this](auto&&...) { done_ = true; };
    switch (GetParam().work) {
      case Work::kStart:
      case Work::kAdopt:
        return runner_->start(config_, done);
      case Work::kRemove:
        return begin(runner_->remove("disk", true));
      case Work::kResize:
        return begin(runner_->resize("disk", 16 << 20));
    }
  }

  // False: it was done before the nth command.
  bool cut_short(unsigned nth) {
    Held command = driver().faults().hold_control(nth);
    begin_work();
    while (!done_ && !command.wait(1ms)) {
      while (g_main_context_iteration(nullptr, FALSE)) continue;
    }
    const bool arrived = command.wait(0ms);
    driver().faults().clear();
    if (arrived && GetParam().executed) command.release();
    die([&] {
      if (arrived && !GetParam().executed) command.answer(-ENODEV);
    });
    return arrived;
  }

  // What the process would leave is kept from its remains, which undo what they can.
  void die(const std::function<void()>& killed = nullptr) {
    const std::filesystem::path kept = dir_ + "/kept";
    std::filesystem::create_directory(kept);
    for (const char* left : {"state", "ublk"})
      if (std::filesystem::exists(dir_ + '/' + left))
        std::filesystem::copy(dir_ + '/' + left, kept / left,
                              std::filesystem::copy_options::recursive |
                                  std::filesystem::copy_options::copy_symlinks);
    driver().kill_server();
    if (killed) killed();
    iterate_until(done_);
    for (const auto& device : std::vector(runner_->devices()))
      error_of_task(runner_->remove(device->name(), true));
    stop();
    driver().bury_server();
    for (const char* left : {"state", "ublk"}) {
      std::filesystem::remove_all(dir_ + '/' + left);
      if (std::filesystem::exists(kept / left))
        std::filesystem::rename(kept / left, dir_ + '/' + left);
    }
    std::filesystem::remove_all(kept);
  }

  void begin_io() {
    io_ = std::make_unique<RandomIo>(driver().disk(0), RandomIo::Options{.requests = 500});
  }

  // Whatever was left, the configured device is there, with its data, and it alone.
  void expect_next_to_serve() {
    const StartSummary summary = start();
    EXPECT_TRUE(summary.failed.empty()) << summary.failed.front().cause;
    ASSERT_NE(runner_->find("disk"), nullptr);
    EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
    EXPECT_EQ(runner_->find("disk")->trouble(), "");
    const uint32_t id = runner_->find("disk")->info().dev_id;
    if (io_ != nullptr) {
      EXPECT_TRUE(io_->wait(kHung)) << io_->completed() << " requests have ended";
      if (GetParam().recovery == RecoveryOption::kReissue && GetParam().work != Work::kRemove) {
        EXPECT_EQ(io_->error(), "");
      }
      io_.reset();
    }
    // What is not adopted goes in the background.
    EXPECT_TRUE(eventually([&] { return driver().nr_devices() == 1; })) << driver().nr_devices();
    std::vector<std::byte> data = test::pattern(4096);
    std::vector<std::byte> read(4096);
    EXPECT_EQ(driver().disk(id)->write(8, 8, data.data()), 0);
    EXPECT_EQ(driver().disk(id)->read(8, 8, read.data()), 0);
    EXPECT_EQ(read, data);
  }

  void remove() {
    EXPECT_EQ(error_of_task(runner_->remove("disk", true)), "");
    stop();
    EXPECT_EQ(driver().nr_devices(), 0u);
    std::filesystem::remove(dir_ + "/disk");
  }

 private:
  void begin(Task<> task) {
    const auto run = [](Task<> inner, bool& done) -> Task<> {
      try {
        co_await inner;
      } catch (const std::exception&) {
        // As it must be when the device has gone.
      }
      done = true;
    };
    tasks_.start(run(std::move(task), done_));
  }

  ublk_runner::TaskSet tasks_;
  bool done_ = true;
  std::unique_ptr<RandomIo> io_;
};

TEST_P(RunnerDeathTest, TheNextOneGoesOn) {
  unsigned nth = 0;
  for (bool more = true; more && !HasFailure();) {
    SCOPED_TRACE("at control command " + std::to_string(++nth));
    prepare();
    more = cut_short(nth);
    expect_next_to_serve();
    remove();
  }
  EXPECT_GT(nth, 1u) << "no command";
}

INSTANTIATE_TEST_SUITE_P(
    , RunnerDeathTest,
    testing::Values(
        Death{"InStart", Work::kStart, false}, Death{"AfterStart", Work::kStart, true},
        Death{"InRemoval", Work::kRemove, false}, Death{"AfterRemoval", Work::kRemove, true},
        Death{"InResize", Work::kResize, false}, Death{"AfterResize", Work::kResize, true},
        Death{"InAdoption", Work::kAdopt, false}, Death{"AfterAdoption", Work::kAdopt, true},
        Death{"InStartWithoutRecovery", Work::kStart, true, RecoveryOption::kNone},
        Death{"InStartFailingIo", Work::kStart, true, RecoveryOption::kFailIo},
        Death{"InAdoptionFailingIo", Work::kAdopt, true, RecoveryOption::kFailIo}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace fake
