// SPDX-License-Identifier: MIT
// What was written is read again: queues, devices, rings, threads and buffer modes in many shapes.
#include <memory>
#include <ostream>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"

namespace fake {
namespace {

namespace abi = ublk::abi;

struct Shape {
  const char* name;
  unsigned devices = 1;
  uint16_t queues = 1;
  uint16_t depth = 32;
  unsigned rings = 1;
  unsigned workers = 0;  // 0: on the ring's thread
  uint64_t flags = 0;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

class ModelTest : public FakeTest, public ::testing::WithParamInterface<Shape> {};

TEST_P(ModelTest, ReadsBackWhatWasWritten) {
  constexpr size_t kBytes = 8 << 20;
  const Shape& shape = GetParam();
  use({.registers_buffers = true});
  struct Disk {
    MemoryBackend memory{kBytes};
    std::unique_ptr<WorkersBackend> workers;
    std::unique_ptr<ServedDevice> device;
    std::unique_ptr<RandomIo> io;
  };
  ublk::Control control(driver());
  std::vector<std::unique_ptr<RingThread>> threads;
  std::vector<RingThread*> serving;
  for (unsigned i = 0; i < shape.rings; ++i)
    serving.push_back(threads.emplace_back(std::make_unique<RingThread>()).get());
  std::vector<Disk> disks(shape.devices);
  uint64_t seed = 1;
  for (Disk& disk : disks) {
    ublk::Backend* backend = &disk.memory;
    if (shape.workers != 0) {
      disk.workers = std::make_unique<WorkersBackend>(disk.memory, shape.workers);
      backend = disk.workers.get();
    }
    disk.device = std::make_unique<ServedDevice>(
        control, device_spec(kBytes, shape.queues, shape.depth, 0, shape.flags), *backend, serving);
    disk.io = std::make_unique<RandomIo>(
        driver().disk(disk.device->id()),
        RandomIo::Options{.seed = seed++,
                          .depth = 2u * shape.queues * shape.depth,
                          .requests = (kSanitized ? 4000u : 20000u) / shape.devices});
  }
  for (Disk& disk : disks) {
    ASSERT_TRUE(disk.io->wait(kHung)) << disk.io->completed() << " requests have ended";
    EXPECT_EQ(disk.io->error(), "");
    disk.device.reset();
  }
}

INSTANTIATE_TEST_SUITE_P(
    , ModelTest,
    ::testing::Values(
        Shape{.name = "OneQueue"}, Shape{.name = "DepthOne", .depth = 1},
        Shape{.name = "ManyQueuesOfManyDevicesOnOneRing", .devices = 6, .queues = 3},
        Shape{.name = "TwoRings", .devices = 2, .queues = 2, .rings = 2},
        Shape{.name = "Workers", .queues = 2, .workers = 3},
        Shape{.name = "WorkersTwoRings", .devices = 2, .queues = 2, .rings = 2, .workers = 2},
        Shape{.name = "GetData", .queues = 2, .flags = abi::kFlagNeedGetData},
        Shape{.name = "GetDataWorkers", .queues = 2, .workers = 3, .flags = abi::kFlagNeedGetData},
        Shape{.name = "UserCopy", .queues = 2, .flags = abi::kFlagUserCopy},
        Shape{.name = "UserCopyWorkers", .queues = 2, .workers = 3, .flags = abi::kFlagUserCopy},
        Shape{.name = "Batch", .devices = 3, .queues = 2, .flags = abi::kFlagBatchIo},
        Shape{.name = "BatchDeep", .depth = 1024, .flags = abi::kFlagBatchIo},
        Shape{.name = "BatchWorkersTwoRings",
              .devices = 2,
              .queues = 2,
              .rings = 2,
              .workers = 3,
              .flags = abi::kFlagBatchIo},
        Shape{
            .name = "BatchUserCopy", .queues = 2, .flags = abi::kFlagBatchIo | abi::kFlagUserCopy},
        Shape{.name = "BatchUserCopyWorkers",
              .queues = 2,
              .workers = 3,
              .flags = abi::kFlagBatchIo | abi::kFlagUserCopy},
        Shape{.name = "BatchThatFallsBack",
              .flags = abi::kFlagBatchIo | abi::kFlagUserCopy | abi::kFlagAutoBufReg},
        Shape{.name = "ExplicitZeroCopy",
              .devices = 3,
              .queues = 2,
              .flags = abi::kFlagUserCopy | abi::kFlagSupportZeroCopy},
        Shape{.name = "ExplicitZeroCopyWorkersTwoRings",
              .devices = 2,
              .queues = 2,
              .rings = 2,
              .workers = 3,
              .flags = abi::kFlagUserCopy | abi::kFlagSupportZeroCopy}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace fake
