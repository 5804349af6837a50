// SPDX-License-Identifier: MIT
// Devices that somebody has open are not removed, unless that is forced.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runner_fixture.h"
#include "test_data.h"

namespace fake {
namespace {

using namespace std::chrono_literals;
using ublk_runner::DeviceUser;
using ublk_runner::ManagedDevice;

class RunnerInUseTest : public RunnerTest {
 protected:
  void serve(const std::vector<DeviceUser>& users = {}) {
    users_ = users;
    add("disk", "memory", {{"size", "8M"}});
    ASSERT_TRUE(start().failed.empty());
    user_ = driver().disk(0);
  }

  std::shared_ptr<Disk> user_;
};

TEST_F(RunnerInUseTest, ItStaysAndIsServed) {
  serve();
  EXPECT_EQ(error_of_task(runner_->remove("disk", false)), "it is in use: somebody has it open");
  ASSERT_NE(runner_->find("disk"), nullptr);
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
  const std::vector<std::byte> data = test::pattern(4096);
  EXPECT_EQ(user_->write(8, 8, data.data()), 0);
  user_.reset();
  EXPECT_EQ(error_of_task(runner_->remove("disk", false)), "");
  EXPECT_EQ(driver().nr_devices(), 0u);
}

TEST_F(RunnerInUseTest, WhoIsSeenIsNamed) {
  serve({{"ublkb0 is open in udevd (1)", true}, {"ublkb0 is mounted at /mnt"}});
  EXPECT_EQ(error_of_task(runner_->remove("disk", false)),
            "it is in use: ublkb0 is mounted at /mnt");
  EXPECT_EQ(runner_->find("disk")->state(), ManagedDevice::State::kLive);
  user_.reset();
}

// By another tool, say, while it was looked for users.
TEST_F(RunnerInUseTest, ADeviceThatTheKernelEndsMeanwhileGoes) {
  bool first = true;
  while_looking_ = [&] {
    if (std::exchange(first, false)) ublk::Control(driver()).stop(0);
  };
  serve({{"ublkb0 is mounted at /mnt"}});
  user_.reset();
  EXPECT_NE(error_of_task(runner_->remove("disk", false)), "");
  EXPECT_TRUE(eventually([this] { return runner_->find("disk") == nullptr; }));
}

TEST_F(RunnerInUseTest, AShortLookIsWaitedFor) {
  serve();
  std::jthread look([user = std::move(user_)]() mutable {
    std::this_thread::sleep_for(200ms);
    user.reset();
  });
  EXPECT_EQ(error_of_task(runner_->remove("disk", false)), "");
  EXPECT_EQ(driver().nr_devices(), 0u);
}

// Each look takes descriptors; with all devices at once there were none left, and devices stayed.
TEST_F(RunnerInUseTest, AFewAreLookedAtAtATime) {
  std::atomic<int> looking{0};
  std::atomic<int> most{0};
  while_looking_ = [&] {
    const int now = ++looking;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(20ms);
    --looking;
  };
  state_dir_ = dir_ + "/state";
  for (int i = 0; i < 16; ++i) {
    const std::string name = "disk" + std::to_string(i);
    add(name, "file", {{"path", dir_ + '/' + name}, {"size", "1M"}, {"create", "true"}});
  }
  ASSERT_TRUE(start().failed.empty());
  stop();
  EXPECT_EQ(driver().nr_devices(), 0u);
  EXPECT_GT(most, 0);
  EXPECT_LE(most, 4);
}

// The kernel deletes it when its user has gone, whom that holds up no longer than the runner.
TEST_F(RunnerInUseTest, AForcedRemovalTakesItFromItsUser) {
  serve();
  EXPECT_EQ(error_of_task(runner_->remove("disk", true)), "");
  EXPECT_EQ(runner_->find("disk"), nullptr);
  EXPECT_EQ(driver().nr_devices(), 1u);
  std::vector<std::byte> data(4096);
  EXPECT_EQ(user_->read(8, 8, data.data()), -EIO);
  user_.reset();
  EXPECT_TRUE(test::eventually([&] { return driver().nr_devices() == 0; }, kHung));
}

}  // namespace
}  // namespace fake
