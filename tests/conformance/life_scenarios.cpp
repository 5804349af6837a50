// SPDX-License-Identifier: MIT
// Start, stop, resize, delete.
#include <vector>

#include "scenario.h"

namespace conformance {
namespace {

using LifeScenario = Scenario;

TEST_F(LifeScenario, StartNeedsTheServersPid) {
  const abi::DevInfo info = add(spec_of(2));
  const uint32_t id = info.dev_id;
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(run(Command::start(id, 0)), -EINVAL);
    if (has(abi::kFlagBufRegOffDaemon)) {  // 6.12 takes any process's
      EXPECT_EQ(run(Command::start(id, getppid())), -EINVAL);
    }
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), -EINVAL) << "the device has not the flag";
    EXPECT_EQ(state(id), DeviceState::kDead);
    EXPECT_EQ(open_disk(id), nullptr);
    EXPECT_EQ(start(server, id), 0);
    EXPECT_EQ(state(id), DeviceState::kLive);
    EXPECT_EQ(control().info(id).ublksrv_pid, getpid());
    EXPECT_NE(open_disk(id), nullptr);
    EXPECT_EQ(start(server, id), -EEXIST) << "twice";
    EXPECT_EQ(run(Command::stop(id)), 0);
    EXPECT_EQ(state(id), DeviceState::kDead);
    EXPECT_EQ(control().info(id).ublksrv_pid, -1);
    EXPECT_EQ(open_disk(id), nullptr);
    EXPECT_EQ(run(Command::stop(id)), 0) << "twice";
  }
  EXPECT_EQ(run(Command::del(id)), 0);
}

TEST_F(LifeScenario, StartWaitsForAllTags) {
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    server.fetch(1);
    EXPECT_EQ(run(Command::start(info.dev_id, getpid()), 50ms), -ETIMEDOUT);
    EXPECT_EQ(open_disk(info.dev_id), nullptr);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
    EXPECT_EQ(server.wait(), (Answer{1, -ENODEV}));
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(LifeScenario, StopGivesTheIdleTagsBack) {
  const abi::DevInfo info = add(spec_of(3));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(server.wait().result, -ENODEV);
    EXPECT_EQ(server.poll(20ms), std::nullopt);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(LifeScenario, StopWaitsForWhatTheServerHas) {
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512);
    Pending read(*disk, {.data = data.data()});
    const Answer request = server.wait();
    EXPECT_EQ(request.result, 0);
    int stopped = 1;
    control().submit(Command::stop(info.dev_id), kHung,
                     [&](int result, const Command&) { stopped = result; });
    // Round trips of another command, in which the STOP has time to end wrongly.
    for (int i = 0; i < 20; ++i) control().features();
    EXPECT_EQ(stopped, 1);
    EXPECT_EQ(read.result(0ms), std::nullopt);
    server.commit(request.tag, 512);
    EXPECT_EQ(read.result(), 0);
    while (stopped == 1) control().features();
    EXPECT_EQ(stopped, 0);
    EXPECT_NE(disk->run({.data = data.data()}), 0) << "the disk has gone";
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(LifeScenario, TryStopIsRefusedWhileTheDiskIsOpen) {
  if (!has(abi::kFlagSafeStopDev)) GTEST_SKIP() << "no TRY_STOP_DEV";
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    auto disk = open_disk(info.dev_id);
    EXPECT_EQ(run(Command::try_stop(info.dev_id)), -EBUSY);
    disk.reset();
    EXPECT_EQ(run(Command::try_stop(info.dev_id)), 0);
    EXPECT_EQ(open_disk(info.dev_id), nullptr);
    EXPECT_EQ(run(Command::try_stop(info.dev_id)), -ENODEV);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(LifeScenario, SizeChangesUnderTheDisk) {
  if (!has(abi::kFlagUpdateSize)) GTEST_SKIP() << "no UPDATE_SIZE";
  const abi::DevInfo info = add(spec_of(2, abi::kFlagUpdateSize));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512);
    EXPECT_EQ(disk->sectors(), kBytes / 512);
    EXPECT_EQ(disk->run({.sector = kBytes / 512, .data = data.data()}), -EIO);
    EXPECT_EQ(run(Command::update_size(info.dev_id, 2 * kBytes / 512)), 0);
    EXPECT_EQ(disk->sectors(), 2 * kBytes / 512);
    Pending read(*disk, {.sector = kBytes / 512, .data = data.data()});
    const Answer request = server.wait();
    EXPECT_EQ(server.descriptor(request.tag).start_sector, kBytes / 512);
    server.commit(request.tag, 512);
    EXPECT_EQ(read.result(), 0);
    EXPECT_EQ(run(Command::update_size(info.dev_id, 8)), 0);
    EXPECT_EQ(disk->sectors(), 8u);
    EXPECT_EQ(disk->run({.sector = 8, .data = data.data()}), -EIO);
    EXPECT_EQ(control().params(info.dev_id).basic.dev_sectors, 8u);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(LifeScenario, DelWaitsForTheNodeAndAsyncDoesNot) {
  const abi::DevInfo info = add(spec_of(1));
  const uint32_t id = info.dev_id;
  auto node = ublk::DeviceNode::open(rig().driver(), info);
  EXPECT_EQ(run(Command::del(id), 50ms), -ETIMEDOUT);
  EXPECT_EQ(run(Command::del_async(id)), 0);
  node.reset();
  const auto end = std::chrono::steady_clock::now() + kHung;
  while (run(Command::get_info(id)) == 0 && std::chrono::steady_clock::now() < end) {
  }
  EXPECT_EQ(run(Command::del(id)), -ENODEV);
}

TEST_F(LifeScenario, DelStopsAnOpenDiskAndWaitsForItsUsers) {
  const abi::DevInfo info = add(spec_of(2));
  const uint32_t id = info.dev_id;
  std::unique_ptr<Disk> disk;
  std::vector<std::byte> data(512);
  int deleted = 1;
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, id), 0);
    disk = open_disk(id);
    Pending read(*disk, {.data = data.data()});
    const Answer request = server.wait();
    control().submit(Command::del(id), kHung,
                     [&](int result, const Command&) { deleted = result; });
    for (int i = 0; i < 20; ++i) control().features();
    EXPECT_EQ(read.result(0ms), std::nullopt) << "what the server has ends first";
    server.commit(request.tag, 512);
    EXPECT_EQ(read.result(), 0);
    while (server.wait().result != -ENODEV) continue;
  }
  EXPECT_NE(disk->run({.data = data.data()}), 0) << "the disk has gone";
  for (int i = 0; i < 20; ++i) control().features();
  EXPECT_EQ(deleted, 1) << "somebody has the disk open";
  disk.reset();
  while (deleted == 1) control().features();
  EXPECT_EQ(deleted, 0);
}

TEST_F(LifeScenario, ADiskThatIsStillOpenIsNotMadeAnew) {
  const abi::DevInfo info = add(spec_of(2));
  const uint32_t id = info.dev_id;
  std::unique_ptr<Disk> disk;
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, id), 0);
    disk = open_disk(id);
  }
  EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kDead);
  {
    const auto server = next_server(info);
    server->fetch_all();
    EXPECT_EQ(start(*server, id), -EEXIST);
    disk.reset();
    EXPECT_EQ(start(*server, id), 0);
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  EXPECT_EQ(run(Command::del(id)), 0);
}

}  // namespace
}  // namespace conformance
