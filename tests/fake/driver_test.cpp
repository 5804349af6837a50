// SPDX-License-Identifier: MIT
// The fake itself: that it is as strict as the kernel's driver where a server can go wrong.
#include <sys/syscall.h>

#include <atomic>
#include <cstring>
#include <future>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "ring_thread.h"
#include "support/eventually.h"
#include "support/raw_server.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using namespace std::chrono_literals;
using abi::DeviceState;
using abi::IoOp;
using test::RawServer;
using ublk::Command;
using ublk::Control;
using Answer = RawServer::Answer;

constexpr size_t kBytes = 1 << 20;

// No partition scan unless a test is about it.
ublk::DeviceSpec quiet_spec(uint16_t depth = 2, uint64_t flags = 0) {
  return device_spec(kBytes, 1, depth, 0, flags | abi::kFlagNoAutoPartScan);
}

class DriverTest : public FakeTest {
 protected:
  // Adds a device without opening it.
  abi::DevInfo add(Control& control, const ublk::DeviceSpec& spec) {
    const abi::DevInfo info = control.add(spec.info);
    control.set_params(info.dev_id, spec.params);
    return info;
  }
  DeviceState state(Control& control, uint32_t id) {
    return static_cast<DeviceState>(control.info(id).state);
  }
  // Submits a request of 512 bytes; its result comes in the future.
  std::future<int> submit(uint32_t id, ublk::Operation op, std::byte* data) {
    auto ended = std::make_shared<std::promise<int>>();
    driver().disk(id)->submit({.op = op, .sectors = 1, .data = data},
                              [ended](int result) { ended->set_value(result); });
    return ended->get_future();
  }
  void wait_for_state(Control& control, uint32_t id, DeviceState wanted) {
    EXPECT_TRUE(test::eventually([&] { return state(control, id) == wanted; }, kHung))
        << static_cast<int>(state(control, id));
  }
};

// --------------------------------------------------------------- fetch, commit --

TEST_F(DriverTest, ShortAndLongResultsAreViolations) {
  // A driver of its own, since the fixture lets no violation pass.
  Driver strict;
  Control control(strict);
  const abi::DevInfo info = add(control, quiet_spec(1));
  {
    RawServer server(strict, info);
    server.fetch(0);
    control.start(info.dev_id, getpid());
    std::vector<std::byte> data(512);
    for (const int result : {0, 511, 513}) {
      std::promise<int> ended;
      strict.disk(info.dev_id)->submit({.sectors = 1, .data = data.data()}, [&](int r) {
        ended.set_value(r);
      });
      EXPECT_EQ(server.wait().result, 0);
      server.commit(0, result);
      EXPECT_EQ(ended.get_future().get(), -EIO);
    }
    control.stop(info.dev_id);
  }
  control.del(info.dev_id);
  EXPECT_EQ(strict.violations().size(), 3u);
}

TEST_F(DriverTest, GetDataOfferMustBeTaken) {
  Control control(driver());
  const abi::DevInfo info = add(control, quiet_spec(1, abi::kFlagNeedGetData));
  {
    RawServer server(driver(), info);
    server.command(IoOp::kFetchReq, {.q_id = 0, .tag = 0, .result = 0, .addr = 0});
    control.start(info.dev_id, getpid());
    std::vector<std::byte> data(512, std::byte{'w'});
    auto write = submit(info.dev_id, ublk::Operation::kWrite, data.data());
    EXPECT_EQ(server.wait(), (Answer{0, abi::kIoResNeedGetData}));
    server.commit(0, -EIO);
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL})) << "the data first, even to fail";
    server.command(IoOp::kNeedGetData,
                   {.q_id = 0, .tag = 0, .result = 0, .addr = server.address(0)});
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    EXPECT_EQ(server.buffer(0)[511], std::byte{'w'});
    server.commit(0, 512);
    EXPECT_EQ(write.get(), 0);
    auto read = submit(info.dev_id, ublk::Operation::kRead, data.data());
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    server.command(IoOp::kCommitAndFetchReq, {.q_id = 0, .tag = 0, .result = -EIO, .addr = 0});
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL})) << "a read's commit has an address";
    server.commit(0, -EIO);
    EXPECT_EQ(read.get(), -EIO);
    control.stop(info.dev_id);
  }
  control.del(info.dev_id);
}

// ------------------------------------------------------------ start, stop, delete --

TEST_F(DriverTest, StartNeedsAllTagsAndTheServersPid) {
  Control control(driver());
  const abi::DevInfo info = add(control, quiet_spec(2));
  {
    RawServer server(driver(), info);
    server.fetch(0);
    EXPECT_EQ(error_of([&] { control.start(info.dev_id, getpid(), 20ms); }).error(), ETIMEDOUT);
    server.fetch(1);
    EXPECT_EQ(error_of([&] { control.start(info.dev_id, 0); }).error(), EINVAL);
    EXPECT_EQ(error_of([&] { control.start(info.dev_id, getpid() + 1); }).error(), EINVAL);
    control.start(info.dev_id, getpid());
    control.stop(info.dev_id);
  }
  control.del(info.dev_id);
  const abi::DevInfo bare = control.add(quiet_spec(1).info);
  {
    RawServer server(driver(), bare);
    server.fetch(0);
    EXPECT_EQ(error_of([&] { control.start(bare.dev_id, getpid()); }).error(), EINVAL)
        << "without parameters";
  }
  control.del(bare.dev_id);
}

// Whoever serves on the thread that runs START hangs, as with the kernel.
TEST_F(DriverTest, StartReadsTheFirstBlock) {
  Control control(driver());
  const abi::DevInfo info = add(control, device_spec(kBytes, 1, 1));
  {
    RawServer server(driver(), info);
    server.fetch(0);
    EXPECT_EQ(error_of([&] { control.start(info.dev_id, getpid(), 50ms); }).error(), ETIMEDOUT);
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    EXPECT_EQ(server.descriptor(0).op_flags & abi::kOpMask, 0u);
    EXPECT_EQ(server.descriptor(0).start_sector, 0u);
    EXPECT_EQ(server.descriptor(0).nr_sectors, 8u);
    server.commit(0, 4096);
    control.stop(info.dev_id);
  }
  control.del(info.dev_id);
}

TEST_F(DriverTest, DelWaitsForTheNodeAndAsyncDoesNot) {
  Control control(driver());
  ublk::DeviceSpec spec = quiet_spec(1);
  spec.info.dev_id = 5;
  add(control, spec);
  auto node = ublk::DeviceNode::open(driver(), spec.info);
  EXPECT_EQ(error_of([&] { control.del(5, 50ms); }).error(), ETIMEDOUT);
  EXPECT_EQ(driver().nr_devices(), 1u);
  EXPECT_EQ(error_of([&] { control.add(spec.info); }).error(), EEXIST) << "it is still there";
  control.del_async(5);
  EXPECT_EQ(driver().nr_devices(), 1u);
  node.reset();
  EXPECT_TRUE(test::eventually([&] { return driver().nr_devices() == 0; }, kHung));
  EXPECT_EQ(error_of([&] { control.del(5); }).error(), ENODEV);
}

TEST_F(DriverTest, TryStopIsRefusedWhileTheDiskIsOpen) {
  Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  ServedDevice device(control, device_spec(kBytes), memory, {&thread});
  auto open = driver().disk(device.id());
  EXPECT_EQ(error_of([&] { control.run(Command::try_stop(device.id())); }).error(), EBUSY);
  open.reset();
  control.run(Command::try_stop(device.id()));
  EXPECT_EQ(driver().disk(device.id()), nullptr);
  EXPECT_EQ(error_of([&] { control.run(Command::try_stop(device.id())); }).error(), ENODEV);
}

TEST_F(DriverTest, SizeChangesUnderTheDisk) {
  Control control(driver());
  RingThread thread;
  MemoryBackend memory(2 * kBytes);
  const auto spec = device_spec(kBytes, 1, 32, 0, abi::kFlagUpdateSize);
  ServedDevice device(control, spec, memory, {&thread});
  const auto disk = driver().disk(device.id());
  std::vector<std::byte> data(512);
  EXPECT_EQ(disk->read(kBytes / 512, 1, data.data()), -EIO);
  control.run(Command::update_size(device.id(), 2 * kBytes / 512));
  EXPECT_EQ(disk->sectors(), 2 * kBytes / 512);
  EXPECT_EQ(disk->read(kBytes / 512, 1, data.data()), 0);
}

// ----------------------------------------------------------- death and recovery --

struct Death {
  const char* name;
  uint64_t flags;
  int in_flight;  // result of what the dead server had; 0: it waits for the next server
  DeviceState state;
};
std::ostream& operator<<(std::ostream& out, const Death& death) { return out << death.name; }

class DeathTest : public DriverTest, public ::testing::WithParamInterface<Death> {};

TEST_P(DeathTest, LeavesWhatTheFlagsSay) {
  const Death& death = GetParam();
  Control control(driver());
  const abi::DevInfo info = add(control, quiet_spec(2, death.flags));
  const uint32_t id = info.dev_id;
  auto server = std::make_unique<RawServer>(driver(), info);
  server->fetch_all();
  control.start(id, getpid());
  auto disk = driver().disk(id);
  std::vector<std::byte> data(512);
  auto in_flight = submit(id, ublk::Operation::kRead, data.data());
  EXPECT_EQ(server->wait().result, 0);
  EXPECT_EQ(error_of([&] { control.run(Command::start_recovery(id)); }).error(),
            death.flags == 0 ? EINVAL : EBUSY);

  server.reset();
  wait_for_state(control, id, death.state);
  if (death.in_flight != 0) {
    EXPECT_EQ(in_flight.get(), death.in_flight);
  }
  if (death.state == DeviceState::kDead) {
    EXPECT_EQ(driver().disk(id), nullptr);
    EXPECT_EQ(disk->read(0, 1, data.data()), -EIO);
    disk.reset();
    control.del(id);
    return;
  }
  std::future<int> later;
  if (death.state == DeviceState::kFailIo)
    EXPECT_EQ(disk->read(0, 1, data.data()), -EREMOTEIO);
  else
    later = submit(id, ublk::Operation::kRead, data.data());

  control.run(Command::start_recovery(id));
  {
    RawServer next(driver(), info);
    next.fetch_all();
    control.run(Command::end_recovery(id, getpid()));
    EXPECT_EQ(state(control, id), DeviceState::kLive);
    const int waiting = (death.in_flight == 0 ? 1 : 0) + (later.valid() ? 1 : 0);
    for (int i = 0; i < waiting; ++i) {
      const Answer request = next.wait();
      EXPECT_EQ(request.result, 0);
      next.commit(request.tag, 512);
    }
    if (death.in_flight == 0) {
      EXPECT_EQ(in_flight.get(), 0);
    }
    if (later.valid()) {
      EXPECT_EQ(later.get(), 0);
    }
    control.stop(id);
  }
  disk.reset();
  control.del(id);
}

INSTANTIATE_TEST_SUITE_P(
    , DeathTest,
    ::testing::Values(Death{"NoRecovery", 0, -EIO, DeviceState::kDead},
                      Death{"Recovery", abi::kFlagUserRecovery, -EIO, DeviceState::kQuiesced},
                      Death{"Reissue", abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue, 0,
                            DeviceState::kQuiesced},
                      Death{"FailIo", abi::kFlagUserRecovery | abi::kFlagUserRecoveryFailIo, -EIO,
                            DeviceState::kFailIo}),
    [](const auto& param_info) { return param_info.param.name; });

TEST_F(DriverTest, QuiescedDeviceWaitsForTheNextServer) {
  Control control(driver());
  const abi::DevInfo info = add(control, quiet_spec(2, abi::kFlagUserRecovery | abi::kFlagQuiesce));
  const uint32_t id = info.dev_id;
  std::future<int> waiting;
  std::vector<std::byte> data(512);
  {
    RawServer server(driver(), info);
    server.fetch_all();
    control.start(id, getpid());
    control.run(Command::quiesce(id, 0));
    EXPECT_EQ(server.wait().result, -ENODEV);
    EXPECT_EQ(server.wait().result, -ENODEV);
    waiting = submit(id, ublk::Operation::kRead, data.data());
  }
  wait_for_state(control, id, DeviceState::kQuiesced);
  control.run(Command::start_recovery(id));
  {
    RawServer next(driver(), info);
    next.fetch_all();
    control.run(Command::end_recovery(id, getpid()));
    next.commit(next.wait().tag, 512);
    EXPECT_EQ(waiting.get(), 0);
    control.stop(id);
  }
  control.del(id);
}

}  // namespace
}  // namespace fake
