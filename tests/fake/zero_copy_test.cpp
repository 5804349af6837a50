// SPDX-License-Identifier: MIT
// Explicit zero copy: each request's data is registered before the backend gets it and unregistered
// before it is committed, and what can't be registered is copied. That the data gets there is shown
// on the real driver, by the VM scenario library-device; of a commit that comes too early the fake
// tells as a violation.
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <future>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using abi::ControlOp;
using abi::IoOp;
using std::chrono::milliseconds;
using ublk::Operation;
using ublk::Request;

constexpr size_t kBytes = 1 << 20;
constexpr uint64_t kFlags = abi::kFlagSupportZeroCopy | abi::kFlagUserCopy;

// A RAM disk that keeps account of its requests' slots. On one ring thread; read it when that has
// nothing to do.
class SlotsBackend : public MemoryBackend {
 public:
  explicit SlotsBackend(size_t bytes) : MemoryBackend(bytes) {}

  static constexpr int kDrop = INT_MAX;

  void submit(Request request) override {
    const int index = request.buffer_index();
    if (index < 0)
      ++without;
    else
      slots.insert(index);
    if (answer == kDrop) return;
    if (answer != 0)
      request.complete(answer);
    else
      MemoryBackend::submit(std::move(request));
  }

  std::set<int> slots;
  int without = 0;
  std::atomic<int> answer{0};  // 0: what is right
};

class ZeroCopyTest : public FakeTest {
 protected:
  void SetUp() override {
    FakeTest::SetUp();
    if (!IsSkipped()) use({.features = kLinux6_15, .registers_buffers = true});
  }
};

struct Served {
  explicit Served(Driver& driver, uint16_t depth = 8)
      : control(driver),
        device(control, device_spec(kBytes, 1, depth, abi::kAttrVolatileCache, kFlags), backend,
               {&thread}),
        disk(driver.disk(device.id())) {
    EXPECT_EQ(ublk::zero_copy(device.device().info()), ublk::ZeroCopy::kExplicit);
    forget();
  }
  int read() { return disk->read(0, 8, data.data()); }
  int write() { return disk->write(0, 8, data.data()); }
  // Since the last call.
  std::pair<size_t, int> forget() {
    return thread.call([this](ublk::Ring&) {
      return std::pair(std::exchange(backend.slots, {}).size(), std::exchange(backend.without, 0));
    });
  }

  SlotsBackend backend{kBytes};
  ublk::Control control;
  RingThread thread;
  ServedDevice device;
  std::shared_ptr<Disk> disk;
  std::vector<std::byte> data = std::vector<std::byte>(4096);
};

using Count = std::pair<size_t, int>;  // slots, and requests without

TEST_F(ZeroCopyTest, ReadsAndWritesAreRegisteredAndNothingElse) {
  Served served(driver());
  EXPECT_EQ(served.write(), 0);
  EXPECT_EQ(served.read(), 0);
  EXPECT_EQ(served.forget(), Count(1, 0)) << "a tag's requests have the same slot";
  EXPECT_EQ(served.disk->flush(), 0);
  EXPECT_EQ(served.disk->discard(0, 8), 0);
  EXPECT_EQ(served.disk->write_zeroes(0, 8), 0);
  EXPECT_EQ(served.forget(), Count(0, 3));
}

TEST_F(ZeroCopyTest, FailedShortAndDroppedRequestsAreUnregistered) {
  Served served(driver());
  for (const int answer : {-ENOSPC, 512, 1 << 20, SlotsBackend::kDrop}) {
    served.backend.answer = answer;
    EXPECT_EQ(served.write(), answer < 0 ? answer : -EIO);
    EXPECT_EQ(served.read(), answer < 0 ? answer : -EIO);
  }
  served.backend.answer = 0;
  EXPECT_EQ(served.read(), 0);
  EXPECT_EQ(served.forget(), Count(1, 0));
}

// Whatever the kernel says, it is this request alone that is copied.
TEST_F(ZeroCopyTest, ARefusedRegistrationFallsBackForItsRequest) {
  Served served(driver());
  for (const int error : {EBUSY, ENOMEM, EINVAL, ENODEV}) {
    driver().faults().fail(IoOp::kRegisterIoBuf, error);
    served.data.assign(4096, static_cast<std::byte>(error));
    EXPECT_EQ(served.write(), 0);
    EXPECT_EQ(served.forget(), Count(0, 1)) << error;
    EXPECT_EQ(served.read(), 0);
    EXPECT_EQ(served.data, std::vector<std::byte>(4096, static_cast<std::byte>(error)));
    EXPECT_EQ(served.forget(), Count(1, 0)) << error;
  }
}

TEST_F(ZeroCopyTest, RandomRefusalsCostNoData) {
  SlotsBackend backend(8 << 20);
  ublk::Control control(driver());
  RingThread thread;
  const ServedDevice device(control, device_spec(8 << 20, 1, 32, 0, kFlags), backend, {&thread});
  for (unsigned nth = 1; nth < 2000; nth += 7)
    driver().faults().fail(IoOp::kRegisterIoBuf, EBUSY, nth);
  RandomIo io(driver().disk(device.id()), {.depth = 64, .requests = 4000});
  ASSERT_TRUE(io.wait(kHung)) << io.completed() << " requests have ended";
  EXPECT_EQ(io.error(), "");
  thread.call([&](ublk::Ring&) {
    EXPECT_GT(backend.without, 200);
    EXPECT_EQ(backend.slots.size(), 32u);
  });
}

// A registration that takes its time holds up no other request, and STOP_DEV waits for its own.
TEST_F(ZeroCopyTest, StopWaitsForARegistrationUnderWay) {
  for (const bool refused : {false, true}) {
    Served served(driver());
    Held held = driver().faults().hold(IoOp::kRegisterIoBuf);
    std::promise<int> ended;
    served.disk->submit({.sectors = 8, .data = served.data.data()},
                        [&](int result) { ended.set_value(result); });
    ASSERT_TRUE(held.wait(kHung));
    EXPECT_EQ(served.read(), 0);
    served.disk.reset();
    std::future<void> stopped = std::async(std::launch::async, [&] { served.device.stop(); });
    EXPECT_EQ(stopped.wait_for(milliseconds(50)), std::future_status::timeout);
    if (refused)
      held.answer(-ENODEV);
    else
      held.release();
    EXPECT_EQ(ended.get_future().get(), 0);
    stopped.get();
    served.thread.call([&](ublk::Ring&) { EXPECT_EQ(served.backend.without, refused ? 1 : 0); });
  }
}

// The kernel takes back its tags while one of them has data under registration: the request still
// gets its answer, and the queue its end.
TEST_F(ZeroCopyTest, AnAbortMeanwhileLosesNoRequest) {
  Served served(driver());
  Held held = driver().faults().hold(IoOp::kRegisterIoBuf);
  std::promise<int> ended;
  served.disk->submit({.sectors = 8, .data = served.data.data()},
                      [&](int result) { ended.set_value(result); });
  ASSERT_TRUE(held.wait(kHung));
  driver().cancel_queues(served.device.id());
  held.release();
  EXPECT_EQ(ended.get_future().get(), 0);
}

// Many unregistrations and commits at once, each in its place before or after a submission.
TEST_F(ZeroCopyTest, AFullSubmissionQueueKeepsTheOrder) {
  constexpr uint16_t kDepth = 1024;  // two commands for each, and the ring has 256 entries
  Served served(driver(), kDepth);
  std::vector<std::vector<std::byte>> data(kDepth, std::vector<std::byte>(512));
  std::atomic<unsigned> left{kDepth};
  std::promise<void> ended;
  served.thread.call([&](ublk::Ring&) {
    for (uint16_t i = 0; i < kDepth; ++i)
      served.disk->submit({.sector = i, .sectors = 1, .data = data[i].data()}, [&](int result) {
        EXPECT_EQ(result, 0);
        if (--left == 0) ended.set_value();
      });
  });
  EXPECT_EQ(ended.get_future().wait_for(kHung), std::future_status::ready) << left << " hang";
  EXPECT_EQ(served.forget(), Count(kDepth, 0));
}

// The table has 16384 slots: four of these devices fill it. Nothing is asked of the kernel for the
// fifth, whose slots are there for the next once one has gone.
TEST_F(ZeroCopyTest, WithoutASlotRequestsAreCopied) {
  constexpr uint16_t kDepth = 4096;
  SlotsBackend backend(kBytes);
  ublk::Control control(driver());
  RingThread thread(65536);
  std::vector<std::byte> data(512);
  const auto slots_of = [&](ServedDevice& device) {
    EXPECT_EQ(driver().disk(device.id())->write(0, 1, data.data()), 0);
    return thread.call([&](ublk::Ring&) { return std::exchange(backend.slots, {}).size(); });
  };
  const auto make = [&] {
    auto device = std::make_unique<ServedDevice>(control, device_spec(kBytes, 1, kDepth, 0, kFlags),
                                                 backend, std::vector{&thread});
    thread.call([&](ublk::Ring&) { backend.slots.clear(); });
    return device;
  };
  std::vector<std::unique_ptr<ServedDevice>> devices;
  for (int i = 0; i < 5; ++i) devices.push_back(make());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(slots_of(*devices[i]), 1u) << i;
  EXPECT_EQ(slots_of(*devices[4]), 0u);
  devices[1].reset();
  EXPECT_EQ(slots_of(*make()), 1u);
}

TEST_F(ZeroCopyTest, BuffersOfTheCallersOwnAreLeftAlone) {
  SlotsBackend backend(kBytes);
  ublk::Control control(driver());
  RingThread thread;
  std::vector<std::byte> own(4096);
  thread.call([&](ublk::Ring& ring) {
    const iovec buffer = {own.data(), own.size()};
    ASSERT_EQ(io_uring_register_buffers(ring.uring(), &buffer, 1), 0);
  });
  const ServedDevice device(control, device_spec(kBytes, 1, 8, 0, kFlags), backend, {&thread});
  std::vector<std::byte> data(512);
  EXPECT_EQ(driver().disk(device.id())->write(0, 1, data.data()), 0);
  thread.call([&](ublk::Ring&) { EXPECT_TRUE(backend.slots.empty()); });
}

TEST_F(ZeroCopyTest, IsRefusedWhereItCannotBe) {
  use({.features = kLinux7_2});
  SlotsBackend backend(kBytes);
  ublk::Control control(driver());
  RingThread thread;
  const auto error_with = [&](uint64_t flags) {
    const ublk::Device device(control, device_spec(kBytes, 1, 8, 0, flags));
    return std::string(error_of([&] { thread.attach(device.node(), 0, backend); }).what());
  };
  EXPECT_NE(error_with(abi::kFlagSupportZeroCopy).find("without kFlagUserCopy"), std::string::npos);
  EXPECT_NE(error_with(abi::kFlagAutoBufReg).find("without kFlagUserCopy"), std::string::npos);
  EXPECT_NE(error_with(kFlags | abi::kFlagBatchIo).find("without kFlagAutoBufReg"),
            std::string::npos);
}

}  // namespace
}  // namespace fake
