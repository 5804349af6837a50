// SPDX-License-Identifier: MIT
// Control commands when the driver is slow, silent or refuses: deadlines, cancellation, undoing.
#include <liburing.h>
#include <ublk/ring.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "ring_thread.h"
#include "support/sanitizers.h"

#if UBLK_TEST_ASAN
#include <sanitizer/lsan_interface.h>
#endif

namespace fake {
namespace {

namespace abi = ublk::abi;
using namespace std::chrono_literals;
using abi::ControlOp;
using ublk::Command;
using ublk::Control;
using Clock = std::chrono::steady_clock;

constexpr size_t kBytes = 1 << 20;

// What is allocated in its scope is not reported by LeakSanitizer.
class IntendedLeak {
#if UBLK_TEST_ASAN
  __lsan::ScopedDisabler disabler_;
#else
 public:
  IntendedLeak() {}  // not trivial, or the compiler calls it unused
#endif
};

// Dispatches until all commands have called back.
void finish(Control& control) {
  const auto end = Clock::now() + kHung;
  while (control.pending() != 0 && Clock::now() < end) control.features();
  EXPECT_EQ(control.pending(), 0u);
}

using ControlTest = FakeTest;

TEST_F(ControlTest, ACallbackThatThrowsLeavesOtherCommandsAsTheyAre) {
  Control control(driver());
  const ublk::Device device(control, device_spec(kBytes));
  control.submit(ublk::Command::get_features(), kHung,
                 [](int, const ublk::Command&) { throw std::runtime_error("of a callback"); });
  // Its queue is not served, so it does not end before the other's callback is run.
  EXPECT_THROW(control.run(ublk::Command::start(device.id(), getpid()), 1s), std::runtime_error);
  finish(control);
}

TEST_F(ControlTest, DevicesThatLookOtherAreNotAttached) {
  Control control(driver());
  const abi::DevInfo added = control.add(device_spec(kBytes).info);
  MemoryBackend backend(kBytes);
  // On this thread: ThreadSanitizer does not see how libstdc++ hands exceptions over to another.
  io_uring uring;
  const unsigned file_slots = ublk::Ring::init(&uring, 256);
  auto ring = std::make_unique<ublk::Ring>(&uring, file_slots);
  for (const uint64_t flag :
       {abi::kFlagZoned, abi::kFlagIntegrity, abi::kFlagShmemZeroCopy, abi::kFlagIoDescSize}) {
    abi::DevInfo info = added;
    info.flags |= flag;
    try {
      ring->attach(ublk::DeviceNode::open(driver(), info), 0, backend);
      ADD_FAILURE() << "attached with flag " << flag;
    } catch (const ublk::Error& e) {
      EXPECT_EQ(e.code().value(), EOPNOTSUPP) << e.what();
    }
  }
  ring.reset();
  io_uring_queue_exit(&uring);
  control.del(added.dev_id);
}

TEST_F(ControlTest, FeaturesAndFlagsFollowTheKernel) {
  {
    Control control(driver());
    EXPECT_EQ(control.features(), kLinux7_2 & kPlayed);
    const ublk::Device device(control,
                              device_spec(kBytes, 1, 32, 0, abi::kFlagUserCopy | abi::kFlagZoned));
    EXPECT_EQ(device.info().flags, 0x26042 | abi::kFlagUserCopy);
  }
  {
    Control control(driver());
    const ublk::Device device(
        control, device_spec(kBytes, 1, 2, 0, abi::kFlagNeedGetData | abi::kFlagBatchIo));
    EXPECT_EQ(device.info().flags, 0x24042 | abi::kFlagBatchIo);
    const ublk::Error error =
        error_of([&] { ublk::Device(control, device_spec(kBytes, 1, 1, 0, abi::kFlagBatchIo)); });
    EXPECT_EQ(error.error(), EINVAL);
  }
  use({.features = kLinux6_12});
  Control control(driver());
  EXPECT_EQ(control.features(), kLinux6_12 & kPlayed);
  const ublk::Device device(control, device_spec(kBytes, 1, 32, 0, abi::kFlagQuiesce));
  EXPECT_EQ(device.info().flags, abi::kFlagCompInTask | abi::kFlagCmdIoctlEncode);
}

TEST_F(ControlTest, ErrorsNameCommandDeviceAndCause) {
  Control control(driver());
  const ublk::Error missing = error_of([&] { control.info(4711); });
  EXPECT_EQ(missing.error(), ENODEV);
  EXPECT_STREQ(missing.what(),
               "GET_DEV_INFO of device 4711: No such device (ENODEV): there is no such device");
  for (const auto& [queues, depth] :
       std::map<uint16_t, uint16_t>{{0, 32}, {1, 0}, {2, 4097}, {4097, 32}}) {
    const auto spec = device_spec(kBytes, queues, depth);
    EXPECT_EQ(error_of([&] { control.add(spec.info); }).error(), EINVAL);
  }
  const ublk::Device device(control, device_spec(kBytes));
  ublk::DeviceSpec same = device_spec(kBytes);
  same.info.dev_id = device.id();
  EXPECT_EQ(error_of([&] { control.add(same.info); }).error(), EEXIST);
}

TEST_F(ControlTest, QueuesAndBuffersAreClamped) {
  use({.cpus = 3});
  Control control(driver());
  ublk::DeviceSpec spec = device_spec(kBytes, 64);
  spec.info.max_io_buf_bytes = (256 << 10) + 100;
  const ublk::Device device(control, spec);
  EXPECT_EQ(device.info().nr_hw_queues, 3);
  EXPECT_EQ(device.info().max_io_buf_bytes, 256u << 10);
  for (const uint16_t queue : {0, 1, 2}) {
    const auto cpus = control.queue_affinity(device.id(), queue);
    for (uint16_t cpu = 0; cpu < 3; ++cpu) EXPECT_EQ(cpus.at(cpu), cpu == queue);
  }
  EXPECT_EQ(error_of([&] { control.queue_affinity(device.id(), 3); }).error(), EINVAL);
}

TEST_F(ControlTest, RefusedParametersLeaveNoDevice) {
  Control control(driver());
  const std::vector<std::function<void(abi::Params&)>> mistakes = {
      [](abi::Params& p) { p.basic.logical_bs_shift = 8; },
      [](abi::Params& p) { p.basic.logical_bs_shift = 13; },
      [](abi::Params& p) { p.basic.physical_bs_shift = 8; },
      [](abi::Params& p) { p.basic.max_sectors = 7; },
      [](abi::Params& p) { p.basic.max_sectors = 513; },
      [](abi::Params& p) { p.discard.discard_granularity = 0; },
      [](abi::Params& p) { p.discard.max_discard_segments = 2; },
      [](abi::Params& p) { p.types |= abi::kParamDevt; },
      [](abi::Params& p) { p.types = abi::kParamDiscard; },
      [](abi::Params& p) {
        p.types |= abi::kParamDmaAlign;
        p.dma.alignment = 4;
      },
      [](abi::Params& p) {
        p.types |= abi::kParamSegment;
        p.seg = {UINT64_MAX, 4096, 0, {}};
      },
  };
  for (const auto& mistake : mistakes) {
    ublk::DeviceSpec spec = device_spec(kBytes);
    mistake(spec.params);
    EXPECT_EQ(error_of([&] { const ublk::Device device(control, spec); }).error(), EINVAL);
    EXPECT_EQ(driver().nr_devices(), 0u);
  }
}

TEST_F(ControlTest, ParametersReadBackAndAreFixedOnceLive) {
  Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  const ServedDevice device(control, device_spec(kBytes), memory, {&thread});
  const abi::Params params = control.params(device.id());
  EXPECT_EQ(params.types, abi::kParamBasic | abi::kParamDiscard);
  EXPECT_EQ(params.basic.dev_sectors, kBytes / 512);
  EXPECT_EQ(error_of([&] { control.set_params(device.id(), params); }).error(), EACCES);
  EXPECT_EQ(error_of([&] { control.start(device.id(), getpid()); }).error(), EEXIST);
  EXPECT_EQ(control.info(device.id()).state, static_cast<uint16_t>(abi::DeviceState::kLive));
  EXPECT_EQ(control.info(device.id()).ublksrv_pid, getpid());
}

TEST_F(ControlTest, EachFailingStepOfADeviceUndoesTheOnesBefore) {
  Control control(driver());
  driver().faults().fail(ControlOp::kAddDev, EACCES);
  EXPECT_EQ(error_of([&] { const ublk::Device device(control, device_spec(kBytes)); }).error(),
            EACCES);
  driver().faults().fail(ControlOp::kSetParams, ENOMEM);
  EXPECT_EQ(error_of([&] { const ublk::Device device(control, device_spec(kBytes)); }).error(),
            ENOMEM);
  EXPECT_EQ(driver().nr_devices(), 0u);
}

// Whatever a device's life is refused by, for whatever reason: it is told, and can be tried again.
TEST_F(ControlTest, EachCommandRefusedOrLostIsToldAndCanBeRepeated) {
  RingThread thread;
  for (const ControlOp op : {ControlOp::kAddDev, ControlOp::kSetParams, ControlOp::kStartDev,
                             ControlOp::kStopDev, ControlOp::kDelDev}) {
    for (const int error : {EINTR, EAGAIN, ENOMEM, EBUSY}) {
      Control control(driver());
      MemoryBackend memory(kBytes);
      driver().faults().fail(op, error);
      const auto insist = [&](const std::function<void()>& call, bool refused) {
        if (refused) {
          EXPECT_EQ(error_of(call).error(), error);
        }
        call();
      };
      const ublk::DeviceSpec spec = device_spec(kBytes);
      abi::DevInfo info{};
      insist([&] { info = control.add(spec.info); }, op == ControlOp::kAddDev);
      const uint32_t id = info.dev_id;
      insist([&] { control.set_params(id, spec.params); }, op == ControlOp::kSetParams);
      {
        CountedBackend counted(memory);
        thread.attach(ublk::DeviceNode::open(driver(), info), 0, counted);
        counted.attached();
        insist([&] { control.start(id, getpid()); }, op == ControlOp::kStartDev);
        std::vector<std::byte> data(512);
        EXPECT_EQ(driver().disk(id)->read(0, 1, data.data()), 0);
        insist([&] { control.stop(id); }, op == ControlOp::kStopDev);
      }
      insist([&] { control.del(id); }, op == ControlOp::kDelDev);
      EXPECT_EQ(driver().nr_devices(), 0u);
    }
  }
}

TEST_F(ControlTest, NodeOpensOnce) {
  Control control(driver());
  const ublk::Device device(control, device_spec(kBytes));
  EXPECT_EQ(error_of([&] { ublk::DeviceNode::open(driver(), device.info()); }).error(), EBUSY);
  abi::DevInfo missing = device.info();
  missing.dev_id = 4711;
  EXPECT_EQ(error_of([&] { ublk::DeviceNode::open(driver(), missing); }).error(), ENOENT);
}

// ------------------------------------------------------------------ deadlines --

TEST_F(ControlTest, LostStartIsReportedAtItsDeadlineAndOthersGoOn) {
  Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  Held lost = driver().faults().hold(ControlOp::kStartDev);
  ublk::Device silent(control, device_spec(kBytes));
  const auto begin = Clock::now();
  int result = 1;
  control.submit(Command::start(silent.id(), getpid()), 500ms,
                 [&](int r, const Command&) { result = r; });
  ASSERT_TRUE(lost.wait(kHung));
  { const ServedDevice other(control, device_spec(kBytes), memory, {&thread}); }
  EXPECT_LT(Clock::now() - begin, 500ms) << "another device had to wait";
  EXPECT_EQ(result, 1) << "ended early";
  finish(control);
  EXPECT_EQ(result, -ETIMEDOUT);
  EXPECT_GE(Clock::now() - begin, 500ms);
  EXPECT_LT(Clock::now() - begin, 5s);
  lost.answer(-EINTR);
}

TEST_F(ControlTest, DeadlinesAreEachCommandsOwn) {
  Control control(driver());
  std::vector<std::unique_ptr<ublk::Device>> devices;
  std::vector<int> order;
  const auto begin = Clock::now();
  for (const int ms : {600, 200, 400, 800}) {
    devices.push_back(std::make_unique<ublk::Device>(control, device_spec(kBytes)));
    control.submit(Command::start(devices.back()->id(), getpid()), std::chrono::milliseconds(ms),
                   [&, ms](int result, const Command& command) {
                     EXPECT_EQ(result, -ETIMEDOUT);
                     EXPECT_EQ(command.op(), ControlOp::kStartDev);
                     EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(ms));
                     order.push_back(ms);
                   });
  }
  finish(control);
  EXPECT_EQ(order, (std::vector<int>{200, 400, 600, 800}));
}

TEST_F(ControlTest, LateAddIsUndone) {
  Control control(driver());
  Held late = driver().faults().hold(ControlOp::kAddDev);
  EXPECT_EQ(error_of([&] { control.add(device_spec(kBytes).info, 100ms); }).error(), ETIMEDOUT);
  ASSERT_TRUE(late.wait(kHung));
  EXPECT_EQ(driver().nr_devices(), 0u);
  late.release();
  EXPECT_EQ(driver().nr_devices(), 1u) << "the kernel has added it nevertheless";
  const auto end = Clock::now() + kHung;
  while (driver().nr_devices() != 0 && Clock::now() < end) control.features();
  EXPECT_EQ(driver().nr_devices(), 0u);
  finish(control);
}

TEST_F(ControlTest, LateFailureOfAnAddUndoesNothing) {
  Control control(driver());
  const ublk::Device device(control, device_spec(kBytes));
  Held late = driver().faults().hold(ControlOp::kAddDev);
  ublk::DeviceSpec same = device_spec(kBytes);
  same.info.dev_id = device.id();
  EXPECT_EQ(error_of([&] { control.add(same.info, 50ms); }).error(), ETIMEDOUT);
  late.release();  // EEXIST
  for (int i = 0; i < 10; ++i) control.features();
  EXPECT_EQ(control.info(device.id()).dev_id, device.id());
}

TEST_F(ControlTest, HungStartIsCancelledAndHoldsNoDevice) {
  Control control(driver());
  for (int i = 0; i < 20; ++i) {
    ublk::Device device(control, device_spec(kBytes));
    EXPECT_EQ(error_of([&] { device.start(10ms); }).error(), ETIMEDOUT);
  }
}

TEST_F(ControlTest, StopBehindHeldIoIsReportedAndEndsWhenTheIoDoes) {
  std::promise<ublk::Request> held;
  std::atomic<bool> started{false};
  FunctionBackend backend([&](ublk::Request request) {
    if (started)
      held.set_value(std::move(request));
    else
      request.complete(static_cast<int>(request.length()));
  });
  Control control(driver());
  RingThread thread;
  ServedDevice device(control, device_spec(kBytes), backend, {&thread});
  started = true;
  std::vector<std::byte> data(512);
  std::promise<int> ended;
  driver().disk(device.id())->submit({.sectors = 1, .data = data.data()}, [&](int result) {
    ended.set_value(result);
  });
  ublk::Request request = held.get_future().get();
  const ublk::Error error = error_of([&] { device.device().stop(100ms); });
  EXPECT_EQ(error.error(), ETIMEDOUT);
  EXPECT_NE(std::string(error.what()).find("held by the server"), std::string::npos);
  EXPECT_EQ(control.info(device.id()).state, static_cast<uint16_t>(abi::DeviceState::kLive));
  EXPECT_TRUE(request.complete(512));
  EXPECT_EQ(ended.get_future().get(), 0);
  finish(control);
}

TEST_F(ControlTest, DestroyedWithAHungStart) {
  Control control(driver());
  const ublk::Device device(control, device_spec(kBytes));
  const auto begin = Clock::now();
  {
    Control second(driver());
    second.submit(Command::start(device.id(), getpid()), 60s,
                  [](int, const Command&) { ADD_FAILURE() << "called back after the end"; });
  }
  EXPECT_LT(Clock::now() - begin, 1s) << "it was not cancelled";
}

// What no cancellation ends is given up; its answer comes when another Control has the descriptor.
TEST_F(ControlTest, DestroyedWithALostCommand) {
  Held lost = driver().faults().hold(ControlOp::kGetDevInfo);
  auto first = std::make_unique<Control>(driver());
  const int fd = first->fd();
  {
    const IntendedLeak leak;  // the command's memory, to which the kernel might still write
    first->submit(Command::get_info(0), 60s,
                  [](int, const Command&) { ADD_FAILURE() << "called back after the end"; });
  }
  ASSERT_TRUE(lost.wait(kHung));
  first.reset();
  Control second(driver());
  EXPECT_EQ(second.fd(), fd);
  lost.answer(-ENODEV);
  EXPECT_EQ(second.features(), kLinux7_2 & kPlayed);
  EXPECT_EQ(second.pending(), 0u);
}

TEST_F(ControlTest, AddThatEndsWithItsControlIsUndone) {
  Held late = driver().faults().hold(ControlOp::kAddDev);
  {
    Control control(driver());
    control.submit(Command::add(device_spec(kBytes).info), 60s,
                   [](int, const Command&) { ADD_FAILURE() << "nobody dispatches"; });
    ASSERT_TRUE(late.wait(kHung));
    late.release();
    EXPECT_EQ(driver().nr_devices(), 1u);
  }
  EXPECT_EQ(driver().nr_devices(), 0u);
}

// -------------------------------------------------------------- side by side --

TEST_F(ControlTest, HundredsOfCommandsAtOnce) {
  constexpr int kDevices = kSanitized ? 100 : 300;
  Control control(driver());
  std::vector<uint32_t> ids;
  for (int i = 0; i < kDevices; ++i)
    control.submit(Command::add(device_spec(kBytes).info), 30s,
                   [&](int result, const Command& command) {
                     ASSERT_EQ(result, 0);
                     ids.push_back(command.info().dev_id);
                   });
  finish(control);
  ASSERT_EQ(ids.size(), static_cast<size_t>(kDevices));
  EXPECT_EQ(driver().nr_devices(), ids.size());
  // A callback may submit.
  for (const uint32_t id : ids)
    control.submit(Command::stop(id), 30s, [&control](int, const Command& command) {
      control.submit(Command::del_async(command.device_id()), 30s,
                     [](int result, const Command&) { EXPECT_EQ(result, 0); });
    });
  finish(control);
  EXPECT_EQ(driver().nr_devices(), 0u);
}

}  // namespace
}  // namespace fake
