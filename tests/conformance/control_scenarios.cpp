// SPDX-License-Identifier: MIT
// Adding devices, their parameters, and what is refused.
#include <functional>
#include <map>
#include <vector>

#include "scenario.h"

namespace conformance {
namespace {

using ControlScenario = Scenario;

// Those that the in-process driver plays.
constexpr uint64_t kCommon = abi::kFlagSupportZeroCopy | abi::kFlagUserRecoveryFailIo |
                             abi::kFlagUpdateSize | abi::kFlagAutoBufReg | abi::kFlagQuiesce |
                             abi::kFlagPerIoDaemon | abi::kFlagBufRegOffDaemon | abi::kFlagBatchIo |
                             abi::kFlagSafeStopDev | abi::kFlagNoAutoPartScan;

TEST_F(ControlScenario, AllOrNoneOfTheNewFeaturesAreThere) {
  EXPECT_TRUE(has(abi::kFlagCompInTask | abi::kFlagNeedGetData | abi::kFlagUserRecovery |
                  abi::kFlagUserRecoveryReissue | abi::kFlagUnprivilegedDev |
                  abi::kFlagCmdIoctlEncode | abi::kFlagUserCopy));
  const uint64_t found = control().features() & kCommon;
  EXPECT_TRUE(found == 0 || found == kCommon) << std::hex << found;
}

// asked for -> given, apart from what every device has.
TEST_F(ControlScenario, FlagsAreGivenClearedOrRefused) {
  constexpr uint64_t kRecovery = abi::kFlagUserRecovery;
  struct Case {
    uint64_t asked;
    uint64_t given;
    uint64_t needs = 0;
  };
  const uint64_t always =
      abi::kFlagCompInTask | abi::kFlagCmdIoctlEncode |
      (control().features() &
       (abi::kFlagPerIoDaemon | abi::kFlagBufRegOffDaemon | abi::kFlagSafeStopDev));
  const std::vector<Case> cases = {
      {0, 0},
      {uint64_t{1} << 40, 0},
      {abi::kFlagUnprivilegedDev, 0},
      {abi::kFlagNeedGetData, abi::kFlagNeedGetData},
      {abi::kFlagUserCopy, abi::kFlagUserCopy},
      {abi::kFlagNeedGetData | abi::kFlagUserCopy, abi::kFlagUserCopy},
      {kRecovery, kRecovery},
      {kRecovery | abi::kFlagUserRecoveryReissue, kRecovery | abi::kFlagUserRecoveryReissue},
      {kRecovery | abi::kFlagUserRecoveryFailIo, kRecovery | abi::kFlagUserRecoveryFailIo,
       abi::kFlagUserRecoveryFailIo},
      {kRecovery | abi::kFlagQuiesce, kRecovery | abi::kFlagQuiesce, abi::kFlagQuiesce},
      {abi::kFlagSupportZeroCopy, abi::kFlagSupportZeroCopy, abi::kFlagSupportZeroCopy},
      {abi::kFlagAutoBufReg, abi::kFlagAutoBufReg, abi::kFlagAutoBufReg},
      {abi::kFlagNeedGetData | abi::kFlagAutoBufReg, abi::kFlagAutoBufReg, abi::kFlagAutoBufReg},
      {abi::kFlagNoAutoPartScan, abi::kFlagNoAutoPartScan, abi::kFlagNoAutoPartScan},
  };
  for (const Case& c : cases) {
    if (!has(c.needs)) continue;
    ublk::DeviceSpec spec = spec_of();
    spec.info.flags = c.asked;
    const abi::DevInfo info = control().add(spec.info);
    EXPECT_EQ(info.flags, c.given | always) << std::hex << "asked for " << c.asked;
    EXPECT_EQ(run(Command::del(info.dev_id)), 0);
  }
}

TEST_F(ControlScenario, BatchIoExcludesWhatItReplaces) {
  if (!has(abi::kFlagBatchIo)) GTEST_SKIP() << "no batch I/O";
  ublk::DeviceSpec spec = spec_of(2, abi::kFlagBatchIo | abi::kFlagNeedGetData);
  const abi::DevInfo info = control().add(spec.info);
  EXPECT_NE(info.flags & abi::kFlagBatchIo, 0u);
  EXPECT_EQ(info.flags & (abi::kFlagPerIoDaemon | abi::kFlagNeedGetData), 0u);
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
  EXPECT_EQ(add_result(spec_of(1, abi::kFlagBatchIo)), -EINVAL) << "depth 1";
}

TEST_F(ControlScenario, FlagsThatContradictEachOtherAreRefused) {
  if (!has(abi::kFlagUserRecoveryFailIo)) {  // which came with the check
    const abi::DevInfo info = add(spec_of(2, abi::kFlagUserRecoveryReissue));
    EXPECT_NE(info.flags & abi::kFlagUserRecoveryReissue, 0u);
    EXPECT_EQ(run(Command::del(info.dev_id)), 0);
    return;
  }
  EXPECT_EQ(add_result(spec_of(2, abi::kFlagUserRecoveryReissue)), -EINVAL);
  EXPECT_EQ(add_result(spec_of(2, abi::kFlagUserRecoveryFailIo)), -EINVAL);
  EXPECT_EQ(add_result(spec_of(2, abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue |
                                      abi::kFlagUserRecoveryFailIo)),
            -EINVAL);
  EXPECT_EQ(add_result(spec_of(2, abi::kFlagQuiesce)), -EINVAL);
}

TEST_F(ControlScenario, ShapesAreCheckedAndClamped) {
  for (const auto& [queues, depth] :
       std::vector<std::pair<uint16_t, uint16_t>>{{0, 32}, {1, 0}, {1, 4097}, {4097, 32}}) {
    ublk::DeviceSpec spec = spec_of(depth);
    spec.info.nr_hw_queues = queues;
    EXPECT_EQ(add_result(spec), -EINVAL) << queues << " queues of " << depth;
  }
  ublk::DeviceSpec spec = spec_of(3);
  spec.info.nr_hw_queues = 4096;
  spec.info.max_io_buf_bytes = (64 << 10) + 100;
  const abi::DevInfo info = control().add(spec.info);
  EXPECT_EQ(info.nr_hw_queues, rig().cpus());
  EXPECT_EQ(info.queue_depth, 3);
  EXPECT_EQ(info.max_io_buf_bytes, 64u << 10);
  EXPECT_EQ(static_cast<DeviceState>(info.state), DeviceState::kDead);
  EXPECT_EQ(info.ublksrv_pid, -1);
  EXPECT_EQ(run(Command::get_queue_affinity(info.dev_id, info.nr_hw_queues)), -EINVAL);
  EXPECT_EQ(run(Command::get_queue_affinity(info.dev_id, 0)), 0);
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ControlScenario, IdsAreTheCallersOrTheNextFree) {
  ublk::DeviceSpec spec = spec_of();
  spec.info.dev_id = abi::kMaxDeviceId + 1;
  EXPECT_EQ(add_result(spec), -EINVAL);
  spec.info.dev_id = 3;
  EXPECT_EQ(control().add(spec.info).dev_id, 3u);
  EXPECT_EQ(add_result(spec), -EEXIST);
  spec.info.dev_id = abi::kAnyDeviceId;
  EXPECT_EQ(control().add(spec.info).dev_id, 0u);
  EXPECT_EQ(run(Command::del(0)), 0);
  EXPECT_EQ(run(Command::del(3)), 0);
  EXPECT_EQ(run(Command::del(3)), -ENODEV);
}

TEST_F(ControlScenario, UnknownDevicesAreToldAsSuch) {
  const uint32_t id = 4711;
  EXPECT_EQ(run(Command::get_info(id)), -ENODEV);
  EXPECT_EQ(run(Command::get_params(id)), -ENODEV);
  EXPECT_EQ(run(Command::set_params(id, spec_of().params)), -ENODEV);
  EXPECT_EQ(run(Command::get_queue_affinity(id, 0)), -ENODEV);
  EXPECT_EQ(run(Command::start(id, getpid())), -ENODEV);
  EXPECT_EQ(run(Command::stop(id)), -ENODEV);
  EXPECT_EQ(run(Command::try_stop(id)), -ENODEV);
  EXPECT_EQ(run(Command::del(id)), -ENODEV);
  EXPECT_EQ(run(Command::del_async(id)), -ENODEV);
  EXPECT_EQ(run(Command::start_recovery(id)), -ENODEV);
  EXPECT_EQ(run(Command::end_recovery(id, getpid())), -ENODEV);
  EXPECT_EQ(run(Command::update_size(id, 8)), -ENODEV);
  EXPECT_EQ(run(Command::quiesce(id, 0)), -ENODEV);
}

TEST_F(ControlScenario, CommandsOfNewKernelsAreUnknownToOldOnes) {
  const abi::DevInfo info = add(spec_of());
  const auto id = info.dev_id;
  EXPECT_EQ(run(Command::update_size(id, 8)), has(abi::kFlagUpdateSize) ? -ENODEV : -EOPNOTSUPP);
  EXPECT_EQ(run(Command::quiesce(id, 0)), -EOPNOTSUPP) << "the device has not the flag";
  EXPECT_EQ(run(Command::try_stop(id)), has(abi::kFlagSafeStopDev) ? -ENODEV : -EOPNOTSUPP);
  EXPECT_EQ(run(Command::start_recovery(id)), -EINVAL) << "the device has not the flag";
  EXPECT_EQ(run(Command::stop(id)), 0) << "a device that is not started";
  EXPECT_EQ(run(Command::del(id)), 0);
}

struct Mistake {
  const char* what;
  std::function<void(abi::Params&)> make;
};
std::vector<Mistake> mistakes() {
  return {
      {"blocks of 256", [](abi::Params& p) { p.basic.logical_bs_shift = 8; }},
      {"blocks above a page", [](abi::Params& p) { p.basic.logical_bs_shift = 13; }},
      {"physical below logical", [](abi::Params& p) { p.basic.physical_bs_shift = 8; }},
      {"requests below a page", [](abi::Params& p) { p.basic.max_sectors = 7; }},
      {"requests above the buffer", [](abi::Params& p) { p.basic.max_sectors = 129; }},
      {"no granularity", [](abi::Params& p) { p.discard.discard_granularity = 0; }},
      {"no granularity of write-zeroes",
       [](abi::Params& p) {
         p.discard.discard_granularity = 0;
         p.discard.max_discard_sectors = 0;
       }},
      {"two segments of a discard", [](abi::Params& p) { p.discard.max_discard_segments = 2; }},
      {"no segment of a discard", [](abi::Params& p) { p.discard.max_discard_segments = 0; }},
      {"device numbers", [](abi::Params& p) { p.types |= abi::kParamDevt; }},
      {"no basic ones", [](abi::Params& p) { p.types = abi::kParamDiscard; }},
      {"none", [](abi::Params& p) { p.types = 0; }},
      {"zones without the flag", [](abi::Params& p) { p.types |= abi::kParamZoned; }},
  };
}

TEST_F(ControlScenario, WrongParametersAreRefused) {
  for (const Mistake& mistake : mistakes()) {
    ublk::DeviceSpec spec = spec_of();
    const abi::DevInfo info = control().add(spec.info);
    mistake.make(spec.params);
    EXPECT_EQ(run(Command::set_params(info.dev_id, spec.params)), -EINVAL) << mistake.what;
    EXPECT_EQ(run(Command::del(info.dev_id)), 0);
  }
}

// Parameters of Linux 6.15, that older kernels drop.
TEST_F(ControlScenario, NewParametersAreCheckedWhereTheyAreKnown) {
  const bool known = has(abi::kFlagSupportZeroCopy);
  const std::vector<Mistake> wrong = {
      {"an alignment that is no mask",
       [](abi::Params& p) {
         p.types |= abi::kParamDmaAlign;
         p.dma.alignment = 4;
       }},
      {"an alignment above a page",
       [](abi::Params& p) {
         p.types |= abi::kParamDmaAlign;
         p.dma.alignment = 8191;
       }},
      {"no boundary",
       [](abi::Params& p) {
         p.types |= abi::kParamSegment;
         p.seg = {UINT64_MAX, 4096, 1, {}};
       }},
      {"a boundary below a page",
       [](abi::Params& p) {
         p.types |= abi::kParamSegment;
         p.seg = {2047, 4096, 1, {}};
       }},
      {"segments below a page",
       [](abi::Params& p) {
         p.types |= abi::kParamSegment;
         p.seg = {4095, 2048, 1, {}};
       }},
  };
  for (const Mistake& mistake : wrong) {
    ublk::DeviceSpec spec = spec_of();
    const abi::DevInfo info = control().add(spec.info);
    mistake.make(spec.params);
    EXPECT_EQ(run(Command::set_params(info.dev_id, spec.params)), known ? -EINVAL : 0)
        << mistake.what;
    EXPECT_EQ(run(Command::del(info.dev_id)), 0);
  }
}

TEST_F(ControlScenario, ParametersReadBackAndUnknownOnesAreDropped) {
  ublk::DeviceSpec spec = spec_of();
  spec.params.types |= 1u << 30;
  const abi::DevInfo info = add(spec);
  const abi::Params params = control().params(info.dev_id);
  EXPECT_EQ(params.types, abi::kParamBasic | abi::kParamDiscard);
  EXPECT_EQ(params.basic.dev_sectors, kBytes / abi::kSectorSize);
  EXPECT_EQ(params.basic.max_sectors, spec.params.basic.max_sectors);
  EXPECT_EQ(params.discard.max_discard_sectors, spec.params.discard.max_discard_sectors);
  EXPECT_EQ(run(Command::set_params(info.dev_id, params)), 0) << "what was read can be set";
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ControlScenario, RefusedParametersTakeTheOldOnesAway) {
  const abi::DevInfo info = add(spec_of(1));
  ublk::DeviceSpec wrong = spec_of();
  wrong.params.basic.logical_bs_shift = 8;
  EXPECT_EQ(run(Command::set_params(info.dev_id, wrong.params)), -EINVAL);
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), -EINVAL);
    EXPECT_EQ(run(Command::set_params(info.dev_id, spec_of().params)), 0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    EXPECT_EQ(run(Command::set_params(info.dev_id, spec_of().params)), -EACCES) << "it is live";
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ControlScenario, NodeOpensOnce) {
  const abi::DevInfo info = add(spec_of());
  const auto error_of = [&](const abi::DevInfo& of) {
    try {
      ublk::DeviceNode::open(rig().driver(), of);
      return 0;
    } catch (const ublk::Error& e) {
      return e.error();
    }
  };
  {
    const auto node = ublk::DeviceNode::open(rig().driver(), info);
    EXPECT_EQ(error_of(info), EBUSY);
    abi::DevInfo missing = info;
    missing.dev_id = 4711;
    EXPECT_EQ(error_of(missing), ENOENT);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

}  // namespace
}  // namespace conformance
