// SPDX-License-Identifier: MIT
// A server's death at each step, and what comes after it.
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "kernel_bugs.h"
#include "scenario.h"

namespace conformance {
namespace {

struct Death {
  const char* name;
  uint64_t flags;
  std::optional<int> in_flight;  // what a request ends with; nullopt: the next server gets it
  std::optional<int> later;      // likewise, one that comes after the death
  DeviceState state;
};
std::ostream& operator<<(std::ostream& out, const Death& death) { return out << death.name; }

class DeathScenario : public Scenario, public ::testing::WithParamInterface<Death> {};

TEST_P(DeathScenario, LeavesWhatTheFlagsSay) {
  const Death& death = GetParam();
  if (!has(death.flags)) GTEST_SKIP() << "not with this kernel";
  const abi::DevInfo info = add(spec_of(2, death.flags));
  const uint32_t id = info.dev_id;
  auto server = std::make_unique<RawServer>(rig().driver(), info);
  server->fetch_all();
  EXPECT_EQ(start(*server, id), 0);
  auto disk = open_disk(id);
  std::vector<std::byte> data(512);
  std::vector<std::byte> later_data(512);
  auto in_flight = std::make_unique<Pending>(*disk, Io{.data = data.data()});
  EXPECT_EQ(server->wait().result, 0);
  EXPECT_EQ(run(Command::start_recovery(id)), death.flags == 0 ? -EINVAL : -EBUSY);

  server.reset();
  EXPECT_EQ(state_after(id, DeviceState::kLive), death.state);
  EXPECT_EQ(control().info(id).ublksrv_pid, death.state == DeviceState::kDead ? -1 : getpid())
      << "the dead server's is kept";
  if (death.in_flight) {
    EXPECT_EQ(in_flight->result(), death.in_flight);
  }
  auto later = std::make_unique<Pending>(*disk, Io{.sector = 1, .data = later_data.data()});
  if (death.later) {
    EXPECT_EQ(later->result(), death.later);
  }
  if (death.state == DeviceState::kDead) {
    EXPECT_EQ(open_disk(id), nullptr);
    later.reset();
    in_flight.reset();
    disk.reset();
    EXPECT_EQ(run(Command::del(id)), 0);
    return;
  }

  EXPECT_EQ(start_recovery(id), 0);
  EXPECT_EQ(run(Command::set_params(id, spec_of().params)), -EACCES) << "the disk is there";
  {
    RawServer next(rig().driver(), info);
    next.fetch_all();
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), 0);
    EXPECT_EQ(state(id), DeviceState::kLive);
    EXPECT_EQ(control().info(id).ublksrv_pid, getpid());
    const int waiting = (death.in_flight ? 0 : 1) + (death.later ? 0 : 1);
    for (int i = 0; i < waiting; ++i) {
      const Answer request = next.wait();
      EXPECT_EQ(request.result, 0);
      const uint64_t sector = next.descriptor(request.tag).start_sector;
      std::memset(next.buffer(request.tag), static_cast<int>('0' + sector), 512);
      next.commit(request.tag, 512);
    }
    if (!death.in_flight) {
      EXPECT_EQ(in_flight->result(), 0);
      EXPECT_EQ(data[511], std::byte{'0'});
    }
    if (!death.later) {
      EXPECT_EQ(later->result(), 0);
      EXPECT_EQ(later_data[511], std::byte{'1'});
    }
    Pending read(*disk, {.data = data.data()});
    next.commit(next.wait().tag, 512);
    EXPECT_EQ(read.result(), 0) << "the device works as before";
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  later.reset();
  in_flight.reset();
  disk.reset();
  EXPECT_EQ(run(Command::del(id)), 0);
}

INSTANTIATE_TEST_SUITE_P(
    , DeathScenario,
    ::testing::Values(Death{"NoRecovery", 0, -EIO, -EIO, DeviceState::kDead},
                      Death{"Recovery", abi::kFlagUserRecovery, -EIO, std::nullopt,
                            DeviceState::kQuiesced},
                      Death{"Reissue", abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue,
                            std::nullopt, std::nullopt, DeviceState::kQuiesced},
                      Death{"FailIo", abi::kFlagUserRecovery | abi::kFlagUserRecoveryFailIo, -EIO,
                            -EREMOTEIO, DeviceState::kFailIo}),
    [](const auto& param_info) { return param_info.param.name; });

using RecoveryScenario = Scenario;

constexpr uint64_t kReissue = abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue;

// Until START there is nothing to lose: whoever comes next starts the device.
TEST_F(RecoveryScenario, DeathBeforeTheStart) {
  if (rig().has(kDeathBeforeStart)) GTEST_SKIP() << kDeathBeforeStart.name;
  const abi::DevInfo info = add(spec_of(2));
  const uint32_t id = info.dev_id;
  for (const unsigned fetched : {0u, 1u, 2u}) {
    const auto server = next_server(info);
    for (uint16_t tag = 0; tag < fetched; ++tag) server->fetch(tag);
    EXPECT_EQ(state(id), DeviceState::kDead);
  }
  {
    const auto server = next_server(info);
    server->fetch_all();
    EXPECT_EQ(start(*server, id), 0);
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  EXPECT_EQ(run(Command::del(id)), 0);
}

TEST_F(RecoveryScenario, ADeviceThatWasNeverStartedCanBeDeleted) {
  for (const unsigned fetched : {0u, 1u, 2u}) {
    if (fetched == 1 && rig().has(kHalfAQueue)) continue;
    const abi::DevInfo info = add(spec_of(2));
    {
      RawServer server(rig().driver(), info);
      for (uint16_t tag = 0; tag < fetched; ++tag) server.fetch(tag);
    }
    EXPECT_EQ(run(Command::del(info.dev_id)), 0) << "after a death with so many tags: " << fetched;
  }
}

// START waits for a tag that never comes; it ends by its deadline, and the device goes.
TEST_F(RecoveryScenario, DeathWhileTheStartWaits) {
  if (rig().has(kHalfAQueue)) GTEST_SKIP() << kHalfAQueue.name;
  const abi::DevInfo info = add(spec_of(2));
  int started = 1;
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    control().submit(Command::start(info.dev_id, getpid()), 500ms,
                     [&](int result, const Command&) { started = result; });
    for (int i = 0; i < 5; ++i) control().features();
    EXPECT_EQ(started, 1);
  }
  while (started == 1) control().features();
  EXPECT_EQ(started, -ETIMEDOUT);
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

// STOP waits for what the server has; its death ends both.
TEST_F(RecoveryScenario, DeathWhileTheStopWaits) {
  for (const uint64_t flags : {uint64_t{0}, kReissue}) {
    const abi::DevInfo info = add(spec_of(2, flags));
    std::vector<std::byte> data(512);
    int stopped = 1;
    {
      std::unique_ptr<Disk> disk;
      std::unique_ptr<Pending> read;
      {
        RawServer server(rig().driver(), info);
        server.fetch_all();
        EXPECT_EQ(start(server, info.dev_id), 0);
        disk = open_disk(info.dev_id);
        read = std::make_unique<Pending>(*disk, Io{.data = data.data()});
        EXPECT_EQ(server.wait().result, 0);
        control().submit(Command::stop(info.dev_id), kHung,
                         [&](int result, const Command&) { stopped = result; });
        for (int i = 0; i < 20; ++i) control().features();
        EXPECT_EQ(stopped, 1);
      }
      EXPECT_EQ(read->result(), -EIO);
      while (stopped == 1) control().features();
      EXPECT_EQ(stopped, 0);
      EXPECT_EQ(state(info.dev_id), DeviceState::kDead);
    }
    EXPECT_EQ(run(Command::del(info.dev_id)), 0);
  }
}

TEST_F(RecoveryScenario, EndsOnlyWhatHasBegun) {
  const abi::DevInfo info = add(spec_of(2, kReissue));
  const uint32_t id = info.dev_id;
  EXPECT_EQ(run(Command::start_recovery(id)), rig().has(kOneRecovery) ? -EINVAL : -EBUSY)
      << "it is not started";
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), -EBUSY) << "it is not started";
    EXPECT_EQ(start(server, id), 0);
    EXPECT_EQ(run(Command::start_recovery(id)), -EBUSY) << "it is live";
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), -EBUSY) << "it is live";
  }
  EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kQuiesced);
  EXPECT_EQ(start_recovery(id), 0);
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, id), -EEXIST) << "its disk is there";
    if (has(abi::kFlagBufRegOffDaemon)) {  // as of START
      EXPECT_EQ(run(Command::end_recovery(id, getppid())), -EINVAL);
    }
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), 0);
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  EXPECT_EQ(run(Command::del(id)), 0);
}

TEST_F(RecoveryScenario, ASecondDeathIsAsTheFirst) {
  const abi::DevInfo info = add(spec_of(2, kReissue));
  const uint32_t id = info.dev_id;
  auto server = std::make_unique<RawServer>(rig().driver(), info);
  server->fetch_all();
  EXPECT_EQ(start(*server, id), 0);
  auto disk = open_disk(id);
  std::vector<std::byte> data(512);
  Pending read(*disk, {.data = data.data()});
  for (int death = 0; death < 3; ++death) {
    EXPECT_EQ(server->wait().result, 0) << "death " << death;
    server.reset();
    EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kQuiesced);
    EXPECT_EQ(start_recovery(id), 0);
    server = std::make_unique<RawServer>(rig().driver(), info);
    server->fetch_all();
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), 0);
  }
  const Answer request = server->wait();
  std::memset(server->buffer(request.tag), 'x', 512);
  server->commit(request.tag, 512);
  EXPECT_EQ(read.result(), 0);
  EXPECT_EQ(data[511], std::byte{'x'});
  EXPECT_EQ(run(Command::stop(id)), 0);
  server.reset();
  disk.reset();
  EXPECT_EQ(run(Command::del(id)), 0);
}

// A server that dies while it recovers leaves the device as it was.
TEST_F(RecoveryScenario, DeathInTheMiddleOfARecovery) {
  if (rig().has(kOneRecovery)) GTEST_SKIP() << kOneRecovery.name;
  const abi::DevInfo info = add(spec_of(2, kReissue));
  const uint32_t id = info.dev_id;
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, id), 0);
  }
  EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kQuiesced);
  auto disk = open_disk(id);
  std::vector<std::byte> data(512);
  Pending read(*disk, {.data = data.data()});
  for (const unsigned fetched : {0u, 1u, 2u}) {
    EXPECT_EQ(start_recovery(id), 0) << "after a death with so many tags: " << fetched;
    RawServer server(rig().driver(), info);
    for (uint16_t tag = 0; tag < fetched; ++tag) server.fetch(tag);
    EXPECT_EQ(state(id), DeviceState::kQuiesced);
  }
  EXPECT_EQ(read.result(20ms), std::nullopt);
  EXPECT_EQ(start_recovery(id), 0);
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), 0);
    server.commit(server.wait().tag, 512);
    EXPECT_EQ(read.result(), 0);
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  disk.reset();
  EXPECT_EQ(run(Command::del(id)), 0);
}

// Whoever waits for a server that never comes gets an error in the end.
TEST_F(RecoveryScenario, StopOfAQuiescedDeviceFailsWhatWaits) {
  const abi::DevInfo info = add(spec_of(2, kReissue));
  const uint32_t id = info.dev_id;
  std::vector<std::byte> data(512);
  {
    std::unique_ptr<Disk> disk;
    std::unique_ptr<Pending> read;
    {
      RawServer server(rig().driver(), info);
      server.fetch_all();
      EXPECT_EQ(start(server, id), 0);
      disk = open_disk(id);
      read = std::make_unique<Pending>(*disk, Io{.data = data.data()});
      EXPECT_EQ(server.wait().result, 0);
    }
    EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kQuiesced);
    EXPECT_EQ(run(Command::stop(id)), 0);
    EXPECT_EQ(read->result(), -EIO);
    EXPECT_EQ(state(id), DeviceState::kDead);
  }
  EXPECT_EQ(run(Command::del(id)), 0);
}

TEST_F(RecoveryScenario, QuiescedDeviceWaitsForTheNextServer) {
  if (!has(abi::kFlagQuiesce)) GTEST_SKIP() << "no QUIESCE_DEV";
  const abi::DevInfo info = add(spec_of(2, abi::kFlagUserRecovery | abi::kFlagQuiesce));
  const uint32_t id = info.dev_id;
  EXPECT_EQ(run(Command::quiesce(id, 0)), -ENODEV) << "it is not started";
  std::unique_ptr<Disk> disk;
  std::unique_ptr<Pending> waiting;
  std::vector<std::byte> data(512);
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, id), 0);
    disk = open_disk(id);
    EXPECT_EQ(run(Command::quiesce(id, 0)), 0);
    EXPECT_EQ(server.wait().result, -ENODEV);
    EXPECT_EQ(server.wait().result, -ENODEV);
    EXPECT_EQ(state(id), DeviceState::kLive) << "until the server lets go";
    waiting = std::make_unique<Pending>(*disk, Io{.data = data.data()});
  }
  EXPECT_EQ(state_after(id, DeviceState::kLive), DeviceState::kQuiesced);
  EXPECT_EQ(run(Command::quiesce(id, 0)), 0) << "twice";
  EXPECT_EQ(run(Command::update_size(id, 2 * kBytes / 512)), 0);
  EXPECT_EQ(start_recovery(id), 0);
  {
    RawServer next(rig().driver(), info);
    next.fetch_all();
    EXPECT_EQ(run(Command::end_recovery(id, getpid())), 0);
    next.commit(next.wait().tag, 512);
    EXPECT_EQ(waiting->result(), 0);
    EXPECT_EQ(disk->sectors(), 2 * kBytes / 512);
    EXPECT_EQ(run(Command::stop(id)), 0);
  }
  waiting.reset();
  disk.reset();
  EXPECT_EQ(run(Command::del(id)), 0);
}

}  // namespace
}  // namespace conformance
