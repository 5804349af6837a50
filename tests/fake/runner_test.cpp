// SPDX-License-Identifier: MIT
// The whole runner with handlers, from a configuration to data that is read again: every model and
// buffer mode, under sanitizers, too.
#include <fcntl.h>
#include <runner.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "random_io.h"
#include "runner_fixture.h"

namespace fake {
namespace {

using ublk_runner::BatchOption;
using ublk_runner::BufferOption;
using ublk_runner::ZeroCopyOption;

class RunnerDataTest : public RunnerTest,
                       public testing::WithParamInterface<std::tuple<Shape, Mode>> {};

TEST_P(RunnerDataTest, ReadsBackWhatWasWritten) {
  const auto& [shape, mode] = GetParam();
  add(shape, mode);
  const StartSummary summary = start();
  ASSERT_TRUE(summary.failed.empty()) << summary.failed.front().cause;

  RandomIo io(driver().disk(0), {.depth = 64,
                                 .requests = kThreadSanitized ? 600u
                                             : kSanitized     ? 3000u
                                                              : 10000u,
                                 .max_sectors = 128});
  ASSERT_TRUE(io.wait(kHung)) << io.completed() << " requests have ended";
  EXPECT_EQ(io.error(), "");
  stop();
}

INSTANTIATE_TEST_SUITE_P(
    , RunnerDataTest,
    testing::Combine(
        testing::Values(
            Shape{"Memory", "memory", {{"size", "8M"}}},
            Shape{"FileRing", "file", {{"path", ""}, {"size", "8M"}, {"create", "true"}}},
            Shape{"FileWorkers",
                  "file",
                  {{"path", ""}, {"size", "8M"}, {"create", "true"}, {"io", "workers"}}},
            Shape{"Coroutines", "coroutines", {{"size", "8M"}}},
            Shape{"CoroutinesOnWorkers", "coroutines", {{"size", "8M"}, {"io", "workers"}}},
            Shape{"CoroutinesMove", "coroutines_moving", {{"size", "8M"}}},
            Shape{"CoroutinesMoveOnWorkers",
                  "coroutines_moving",
                  {{"size", "8M"}, {"io", "workers"}}},
            Shape{"MovesInline", "moves", {{"size", "8M"}}},
            Shape{"MovesOnRing", "moves", {{"size", "8M"}, {"io", "ring"}}},
            Shape{"MovesOnWorkers", "moves", {{"size", "8M"}, {"io", "workers"}}},
            Shape{"OwnBuffers", "own", {{"size", "8M"}}},
            Shape{"OwnBuffersOnWorkers", "own", {{"size", "8M"}, {"io", "workers"}}}),
        testing::Values(Mode{"Auto", BufferOption::kAuto}, Mode{"Copy", BufferOption::kCopy},
                        Mode{"GetData", BufferOption::kGetData},
                        Mode{"UserCopy", BufferOption::kUserCopy},
                        Mode{"AutoBatch", BufferOption::kAuto, BatchOption::kOn},
                        Mode{"UserCopyBatch", BufferOption::kUserCopy, BatchOption::kOn})),
    [](const auto& param_info) { return name_of_both(param_info); });

// Workers, the ring and the kernel all have work for a thread that spins, and it still ends.
TEST_F(RunnerTest, SpinningThreadsServeTheSame) {
  config_.spin = 200;
  config_.io_threads = 2;
  const Options ring = {{"path", dir_ + "/disk"}, {"size", "8M"}, {"create", "true"}};
  add("ring", "file", ring).queues = 2;
  add("workers", "moves", {{"size", "8M"}, {"io", "workers"}}).queues = 2;
  add("inline", "memory", {{"size", "8M"}}).batch_io = BatchOption::kOff;
  ASSERT_TRUE(start().failed.empty());
  for (const unsigned depth : {1u, 32u}) {
    std::vector<std::unique_ptr<RandomIo>> all;
    for (uint32_t id = 0; id < 3; ++id) {
      const auto disk = driver().disk(id);
      EXPECT_EQ(disk->discard(0, 16384), 0);  // for the model
      all.push_back(std::make_unique<RandomIo>(
          disk, RandomIo::Options{.depth = depth, .requests = 2000, .max_sectors = 128}));
    }
    for (const auto& io : all) {
      ASSERT_TRUE(io->wait(kHung)) << io->completed() << " requests have ended";
      EXPECT_EQ(io->error(), "");
    }
  }
}

TEST_F(RunnerTest, AutomaticQueuesFollowTheThreadsUpToFour) {
  for (const auto& [threads, queues] : {std::pair(1u, 1u), {3u, 3u}, {16u, 4u}}) {
    config_.devices.clear();
    config_.io_threads = threads;
    add("disk", "null", {{"size", "8M"}}).queues = 0;
    ASSERT_TRUE(start().failed.empty());
    EXPECT_EQ(ublk::Control(driver()).info(0).nr_hw_queues, queues);
    stop();
  }
}

TEST(QueueThreadsTest, HalfTheCpusByDefault) {
  for (const auto& [cpus, threads] :
       {std::pair(1u, 1u), {2u, 1u}, {3u, 1u}, {4u, 2u}, {32u, 16u}, {256u, 16u}})
    EXPECT_EQ(ublk_runner::QueueThreads::automatic(cpus), threads) << cpus;
}

TEST_F(RunnerTest, AModeThatTheKernelLacksIsAnErrorOrLeftOut) {
  use({.features = kLinux7_2 & ~ublk::abi::kFlagUserCopy});
  add("forced", "memory", {{"size", "8M"}}).buffer = BufferOption::kUserCopy;
  add("automatic", "moves", {{"size", "8M"}});
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 1u);
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_EQ(summary.failed[0].device, "forced");
  EXPECT_EQ(summary.failed[0].cause,
            "buffer = user-copy: this kernel can't (UBLK_F_USER_COPY, Linux 6.5)");
}

TEST_F(RunnerTest, ZeroCopyIsAnErrorOrLeftOutWhereItCannotBe) {
  use({.features = kLinux6_12});
  const auto add_file = [this](const std::string& name) -> DeviceConfig& {
    return add(name, "file", {{"path", dir_ + "/" + name}, {"size", "1M"}, {"create", "true"}});
  };
  add_file("automatic");
  add_file("forced").zero_copy = ZeroCopyOption::kOn;
  add("memory", "memory", {{"size", "8M"}}).zero_copy = ZeroCopyOption::kOn;
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 1u);
  std::map<std::string, std::string> causes;
  for (const auto& failed : summary.failed) causes[failed.device] = failed.cause;
  EXPECT_EQ(causes["forced"],
            "zero_copy = on: this kernel can't (UBLK_F_SUPPORT_ZERO_COPY, Linux 6.15)");
  EXPECT_EQ(causes["memory"], "zero_copy = on: the handler can't, with these options");
}

// The kernel's own registration where there is one, else commands, which exclude batch I/O. The
// fake registers nothing, so all is copied, and right.
TEST_F(RunnerTest, ZeroCopyIsExplicitOnlyWhereTheKernelDoesNotRegister) {
  const uint64_t batch_alone = kLinux6_15 | ublk::abi::kFlagBatchIo;
  for (const uint64_t features : {kLinux6_15, batch_alone, kLinux7_2}) {
    use({.features = features});
    config_.devices.clear();
    add("disk", "file", {{"path", dir_ + "/disk"}, {"size", "8M"}, {"create", "true"}}).queues = 2;
    ASSERT_EQ(start().started, 1u);
    const uint64_t flags = ublk::Control(driver()).info(0).flags;
    EXPECT_NE(flags & ublk::abi::kFlagUserCopy, 0u);
    EXPECT_EQ((flags & ublk::abi::kFlagAutoBufReg) != 0, features == kLinux7_2);
    EXPECT_EQ((flags & ublk::abi::kFlagSupportZeroCopy) != 0, features != kLinux7_2);
    EXPECT_EQ((flags & ublk::abi::kFlagBatchIo) != 0, features == kLinux7_2);
    RandomIo io(driver().disk(0), {.depth = 64, .requests = 2000, .max_sectors = 128});
    ASSERT_TRUE(io.wait(kHung)) << io.completed() << " requests have ended";
    EXPECT_EQ(io.error(), "");
    stop();
    std::filesystem::remove(dir_ + "/disk");
  }
}

TEST_F(RunnerTest, ExplicitZeroCopyExcludesBatchIo) {
  use({.features = kLinux6_15 | ublk::abi::kFlagBatchIo});
  add("disk", "file", {{"path", dir_ + "/disk"}, {"size", "1M"}, {"create", "true"}}).batch_io =
      BatchOption::kOn;
  const StartSummary summary = start();
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_EQ(
      summary.failed[0].cause,
      "batch_io = on: not with zero copy on a kernel without UBLK_F_AUTO_BUF_REG, Linux 6.16");
}

TEST_F(RunnerTest, BatchIoIsAnErrorOrLeftOutWhereItCannotBe) {
  const auto add_null = [this](const std::string& name, BatchOption option) -> DeviceConfig& {
    DeviceConfig& device = add(name, "null", {{"size", "8M"}});
    device.batch_io = option;
    return device;
  };
  add_null("forced", BatchOption::kOn);
  add_null("automatic_get_data", BatchOption::kAuto).buffer = BufferOption::kGetData;
  add_null("automatic_one", BatchOption::kAuto).queue_depth = 1;
  add_null("forced_get_data", BatchOption::kOn).buffer = BufferOption::kGetData;
  add_null("forced_one", BatchOption::kOn).queue_depth = 1;
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 3u);
  std::map<std::string, std::string> causes;
  for (const auto& failed : summary.failed) causes[failed.device] = failed.cause;
  EXPECT_EQ(causes["forced_get_data"],
            "batch_io = on: the kernel can't in get-data mode, expected another \"buffer\"");
  EXPECT_EQ(causes["forced_one"], "batch_io = on: expected a queue_depth of 2 or more");
}

TEST_F(RunnerTest, BatchIoNeedsAKernelThatHasIt) {
  use({.features = kLinux7_2 & ~ublk::abi::kFlagBatchIo});
  add("automatic", "memory", {{"size", "8M"}});
  add("forced", "memory", {{"size", "8M"}}).batch_io = BatchOption::kOn;
  const StartSummary summary = start();
  EXPECT_EQ(summary.started, 1u);
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_EQ(summary.failed[0].cause,
            "batch_io = on: this kernel can't (UBLK_F_BATCH_IO, Linux 7.0)");
}

TEST_F(RunnerTest, ZeroCopyWantsAModeWithoutTagBuffers) {
  const std::string path = dir_ + "/disk";
  DeviceConfig& device = add("disk", "file", {{"path", path}, {"size", "1M"}, {"create", "true"}});
  device.zero_copy = ZeroCopyOption::kOn;
  device.buffer = BufferOption::kCopy;
  const StartSummary summary = start();
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_EQ(summary.failed[0].cause,
            "zero_copy = on: expected buffer = auto or user-copy beside it");
}

TEST_F(RunnerTest, ADeviceWhoseNameIsTakenIsUndone) {
  const std::string other = dir_ + "/ublkb9";
  if (mknod(other.c_str(), S_IFBLK | 0600, makedev(7, 0)) != 0)
    GTEST_SKIP() << "needs root, to make a node";
  std::filesystem::create_directory(dir_ + "/ublk");
  std::filesystem::create_symlink(other, dir_ + "/ublk/disk");
  add("disk", "null", {{"size", "8M"}});
  const StartSummary summary = start();
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_NE(summary.failed[0].cause.find("is the name of " + other + " already"), std::string::npos)
      << summary.failed[0].cause;
  EXPECT_EQ(driver().nr_devices(), 0u);
  EXPECT_EQ(std::filesystem::read_symlink(dir_ + "/ublk/disk"), other);
}

// Requests that hang on workers, between others that were short until then: those are answered all
// the same, though they are waited for by a sleeping queue thread.
TEST_F(RunnerTest, RequestsThatHangDontKeepBackOthers) {
  constexpr uint64_t kSectors = 16384;
  const std::string gate = dir_ + "/gate";
  add("disk", "moves", {{"size", "8M"}, {"io", "workers"}, {"gate", gate}}).workers = 4;
  close(creat(gate.c_str(), 0600));  // the kernel looks at the last blocks, too
  ASSERT_TRUE(start().failed.empty());
  std::shared_ptr<Disk> disk = driver().disk(0);
  std::vector<std::byte> data(512);
  std::atomic<unsigned> done{0};
  std::atomic<unsigned> hanging{0};
  unsigned expected = 0;
  const auto read = [&](uint64_t sector, std::atomic<unsigned>& count) {
    disk->submit({.sector = sector, .sectors = 1, .data = data.data()}, [&](int result) {
      EXPECT_EQ(result, 0);
      ++count;
    });
  };
  const auto reads_end = [&] {
    return test::eventually([&] { return done == expected; }, kHung, std::this_thread::yield);
  };
  for (unsigned round = 0; round < 20; ++round) {
    for (int batch = 0; batch < 20; ++batch) {
      for (unsigned i = 0; i < 30; ++i) read(i, done);
      expected += 30;
      ASSERT_TRUE(reads_end()) << done << " of " << expected << " in round " << round;
    }
    ASSERT_EQ(unlink(gate.c_str()), 0);
    for (unsigned i = 0; i < 30; ++i) i == 20 ? read(kSectors - 1, hanging) : read(i, done);
    expected += 29;
    ASSERT_TRUE(reads_end()) << done << " of " << expected << " beside one that hangs, in round "
                             << round;
    EXPECT_EQ(hanging, round);
    close(creat(gate.c_str(), 0600));
    ASSERT_TRUE(test::eventually([&] { return hanging == round + 1; }, kHung))
        << hanging << " in round " << round;
  }
  disk.reset();
  stop();
}

TEST_F(RunnerTest, WhatTheHandlerFindsWrongIsTheDevicesTrouble) {
  const std::string gate = dir_ + "/gate";
  add("disk", "moves", {{"size", "8M"}, {"io", "workers"}, {"gate", gate}});
  close(creat(gate.c_str(), 0600));
  ASSERT_TRUE(start().failed.empty());
  ASSERT_EQ(runner_->find("disk")->trouble(), "");
  ASSERT_EQ(unlink(gate.c_str()), 0);
  std::vector<std::byte> data(512);
  std::atomic<bool> done{false};
  driver().disk(0)->submit({.sector = 16383, .sectors = 1, .data = data.data()},
                           [&](int result) { done = result == 0; });
  const auto trouble = [&] { return runner_->find("disk")->trouble(); };
  ASSERT_TRUE(eventually([&] { return !trouble().empty(); }));
  EXPECT_EQ(trouble(), "no " + gate);
  close(creat(gate.c_str(), 0600));
  EXPECT_TRUE(eventually([&] { return trouble().empty(); })) << trouble();
  EXPECT_TRUE(eventually([&] { return done.load(); }));
}

// Else it would be failed all the same, but its handler left open, in whose hands it is. Nor is the
// time that a stop has for what is to be written back spent on a handler that answers nothing.
TEST_F(RunnerTest, ARequestThatWaitsForEverIsCancelledByAStop) {
  const std::vector<std::string> places = {"ring", "workers"};
  for (const std::string& io : places)
    add(io, "coroutines",
        {{"io", io}, {"scene", "sleeps_forever"}, {"scene_at", "64K"}, {"alive", dir_ + "/" + io}});
  ASSERT_TRUE(start().failed.empty());
  std::vector<std::byte> data(4096);
  std::atomic<unsigned> failed{0};
  for (unsigned i = 0; i < places.size(); ++i) {
    EXPECT_TRUE(std::filesystem::exists(dir_ + "/" + places[i]));
    driver().disk(i)->submit({.sector = 128, .sectors = 8, .data = data.data()},
                             [&](int result) { failed += result < 0; });
  }
  const auto began = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(12));
  EXPECT_EQ(failed, places.size());
  for (const std::string& io : places)
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/" + io)) << io << " is not closed";
}

}  // namespace
}  // namespace fake
