// SPDX-License-Identifier: MIT
// Whole devices on the real driver: every kind of request, many queues on a ring.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "device_io.h"
#include "served_device.h"

namespace {

using ublk::Operation;
using ublk::Request;

int discard(int fd, uint64_t offset, uint64_t length, unsigned long request) {
  uint64_t range[2] = {offset, length};
  return ioctl(fd, request, range);
}

TEST(Device, ServesEveryKindOfRequest) {
  RecordingBackend backend(16 << 20);
  ublk::Control control;
  ServedDevice device(
      control, device_spec(16 << 20, 1, 32, ublk::abi::kAttrVolatileCache | ublk::abi::kAttrFua),
      backend);
  const ublk::UniqueFd fd = device.open(O_RDWR | O_DIRECT);
  ASSERT_TRUE(fd);
  const AlignedBuffer written(64 << 10);
  const AlignedBuffer read(64 << 10);
  for (int i = 0; i < 64 << 10; ++i) written.data[i] = static_cast<char>(i * 7);

  ASSERT_EQ(pwrite(fd.get(), written.data, 64 << 10, 1 << 20), 64 << 10);
  ASSERT_EQ(pread(fd.get(), read.data, 64 << 10, 1 << 20), 64 << 10);
  EXPECT_EQ(std::memcmp(written.data, read.data, 64 << 10), 0);
  EXPECT_GE(backend.count(Operation::kWrite), 1);

  ASSERT_EQ(fsync(fd.get()), 0);
  EXPECT_GE(backend.count(Operation::kFlush), 1);

  const ublk::UniqueFd sync_fd = device.open(O_RDWR | O_DIRECT | O_DSYNC);
  ASSERT_EQ(pwrite(sync_fd.get(), written.data, 4096, 0), 4096);
  EXPECT_GE(backend.fua(), 1);

  ASSERT_EQ(discard(fd.get(), 1 << 20, 4096, BLKDISCARD), 0);
  EXPECT_EQ(backend.count(Operation::kDiscard), 1);
  ASSERT_EQ(discard(fd.get(), (1 << 20) + 4096, 8192, BLKZEROOUT), 0);
  EXPECT_EQ(backend.count(Operation::kWriteZeroes), 1);
  ASSERT_EQ(pread(fd.get(), read.data, 64 << 10, 1 << 20), 64 << 10);
  EXPECT_TRUE(std::all_of(read.data, read.data + 12288, [](char c) { return c == 0; }));
  EXPECT_EQ(std::memcmp(read.data + 12288, written.data + 12288, (64 << 10) - 12288), 0);
}

TEST(Device, ReadOnlyDeviceRefusesWrites) {
  RecordingBackend backend(1 << 20);
  ublk::Control control;
  ServedDevice device(control, device_spec(1 << 20, 1, 32, ublk::abi::kAttrReadOnly), backend);
  const ublk::UniqueFd fd = device.open(O_RDONLY);
  ASSERT_TRUE(fd);
  int read_only = 0;
  ASSERT_EQ(ioctl(fd.get(), BLKROGET, &read_only), 0);
  EXPECT_EQ(read_only, 1);
  EXPECT_EQ(backend.count(Operation::kWrite), 0);
}

// Forgets each write, answers each read short: both must be errors, never data.
class CarelessBackend : public ublk::Backend {
 public:
  void submit(Request request) override {
    if (careless && request.op() == Operation::kWrite) return;
    const int length = static_cast<int>(request.length());
    if (request.op() == Operation::kRead) std::memset(request.buffer(), 0, request.length());
    request.complete(careless && request.op() == Operation::kRead ? length - 512 : length);
  }
  std::atomic<bool> careless{false};
};

TEST(Device, DroppedAndShortRequestsAreErrors) {
  CarelessBackend backend;
  ublk::Control control;
  ServedDevice device(control, device_spec(1 << 20), backend);
  const ublk::UniqueFd fd = device.open(O_RDWR | O_DIRECT);
  const AlignedBuffer buffer(4096);
  backend.careless = true;
  EXPECT_EQ(pwrite(fd.get(), buffer.data, 4096, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(pread(fd.get(), buffer.data, 4096, 0), -1);
  EXPECT_EQ(errno, EIO);
  backend.careless = false;
  EXPECT_EQ(pread(fd.get(), buffer.data, 4096, 0), 4096);
}

class OwnBuffersBackend : public RecordingBackend {
 public:
  using RecordingBackend::RecordingBackend;
  std::byte* alloc_io_buffer(ublk::Queue&, uint16_t tag, size_t bytes) override {
    allocated.fetch_add(1);
    tags |= uint64_t{1} << tag;
    return static_cast<std::byte*>(aligned_alloc(4096, bytes));
  }
  void free_io_buffer(ublk::Queue&, uint16_t, std::byte* buffer) override {
    allocated.fetch_sub(1);
    free(buffer);
  }
  std::atomic<int> allocated{0};
  uint64_t tags = 0;
};

TEST(Device, UsesTheBackendsBuffersAndGivesThemBack) {
  OwnBuffersBackend backend(1 << 20);
  {
    ublk::Control control;
    ServedDevice device(control, device_spec(1 << 20, 1, 16), backend);
    EXPECT_EQ(backend.allocated, 16);
    EXPECT_EQ(backend.tags, 0xffffu);
    const ublk::UniqueFd fd = device.open(O_RDWR | O_DIRECT);
    const AlignedBuffer buffer(4096);
    std::memset(buffer.data, 'x', 4096);
    ASSERT_EQ(pwrite(fd.get(), buffer.data, 4096, 8192), 4096);
    std::memset(buffer.data, 0, 4096);
    ASSERT_EQ(pread(fd.get(), buffer.data, 4096, 8192), 4096);
    EXPECT_EQ(buffer.data[4095], 'x');
  }
  EXPECT_EQ(backend.allocated, 0);
}

// Several devices with several queues each on one ring and one thread, data compared by a model.
TEST(Device, ManyQueuesOfManyDevicesOnOneRing) {
  constexpr int kDevices = 6;
  constexpr size_t kBytes = 2 << 20;
  ublk::Control control;
  std::list<RecordingBackend> backends;
  std::vector<std::unique_ptr<ublk::Device>> devices;
  // One Backend per device; a dispatcher picks by node.
  class Dispatcher : public ublk::Backend {
   public:
    void submit(Request request) override {
      by_id.at(request.queue().node().info().dev_id)->submit(std::move(request));
    }
    std::map<uint32_t, ublk::Backend*> by_id;
  } dispatcher;
  std::vector<std::shared_ptr<ublk::DeviceNode>> nodes;
  for (int i = 0; i < kDevices; ++i) {
    devices.push_back(std::make_unique<ublk::Device>(control, device_spec(kBytes, 2, 64)));
    dispatcher.by_id[devices.back()->id()] = &backends.emplace_back(kBytes);
    nodes.push_back(devices.back()->node());
  }
  {
    const ServingThread thread(std::move(nodes), dispatcher);
    for (auto& device : devices) device->start();
    for (auto& device : devices) exercise(device->block_path(), kBytes, 200);
    for (auto& device : devices) device->stop();
  }
}

// The runner puts queues of the same number on the same thread because of it.
TEST(Device, QueuesOfTheSameNumberServeTheSameCpus) {
  ublk::Control control;
  const ublk::Device one(control, device_spec(1 << 20, 2));
  const ublk::Device other(control, device_spec(1 << 20, 2));
  for (uint16_t queue = 0; queue < one.info().nr_hw_queues; ++queue) {
    const std::vector<bool> cpus = control.queue_affinity(one.id(), queue);
    EXPECT_NE(std::count(cpus.begin(), cpus.end(), true), 0);
    EXPECT_EQ(cpus, control.queue_affinity(other.id(), queue));
  }
}

}  // namespace
