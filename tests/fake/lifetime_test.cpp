// SPDX-License-Identifier: MIT
// Devices and queues that come and go, and what they leave behind: nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "backends.h"
#include "fixture.h"
#include "random_io.h"
#include "ring_thread.h"

namespace fake {
namespace {

namespace abi = ublk::abi;

constexpr size_t kBytes = 1 << 20;

struct Resources {
  long fds, maps, threads;

  static Resources now() {
    const auto entries = [](const char* path) {
      return std::distance(std::filesystem::directory_iterator(path), {});
    };
    std::ifstream maps("/proc/self/maps");
    return {entries("/proc/self/fd"), std::count(std::istreambuf_iterator<char>(maps), {}, '\n'),
            entries("/proc/self/task")};
  }
};

void expect_no_more(const Resources& before) {
  const Resources after = Resources::now();
  EXPECT_EQ(after.fds, before.fds);
  // The allocators' own; sanitizers map their shadow as they go.
  if (!kSanitized) {
    EXPECT_LE(after.maps, before.maps + 4);
  }
  EXPECT_EQ(after.threads, before.threads);
}

using LifetimeTest = FakeTest;

TEST_F(LifetimeTest, HundredsOfDevicesOneAfterTheOther) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  const auto round = [&] {
    const ServedDevice device(control, device_spec(kBytes, 2, 64), memory, {&thread});
    std::vector<std::byte> data(512);
    EXPECT_EQ(driver().disk(device.id())->read(0, 1, data.data()), 0);
  };
  for (int i = 0; i < 20; ++i) round();
  const Resources before = Resources::now();
  for (int i = 0; i < (kSanitized ? 50 : 300); ++i) round();
  expect_no_more(before);
}

TEST_F(LifetimeTest, HundredsOfDevicesAtOnce) {
  constexpr int kDevices = kSanitized ? 60 : 250;
  ublk::Control control(driver());
  RingThread first(32768);
  RingThread second(32768);
  MemoryBackend memory(kBytes);
  const auto round = [&] {
    std::vector<std::unique_ptr<ServedDevice>> devices;
    devices.reserve(kDevices);
    for (int i = 0; i < kDevices; ++i)
      devices.push_back(std::make_unique<ServedDevice>(control, device_spec(kBytes, 2, 32), memory,
                                                       std::vector{&first, &second}));
    EXPECT_EQ(driver().nr_devices(), static_cast<size_t>(kDevices));
    std::vector<std::byte> data(4096);
    for (const auto& device : devices)
      EXPECT_EQ(driver().disk(device->id())->write(0, 8, data.data()), 0);
  };
  round();
  const Resources before = Resources::now();
  round();
  expect_no_more(before);
}

TEST_F(LifetimeTest, DevicesAreAddedWhileOthersWork) {
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(4 * kBytes);
  const ServedDevice busy(control, device_spec(4 * kBytes, 2, 32), memory, {&thread});
  RandomIo io(driver().disk(busy.id()), {.requests = kSanitized ? 3000u : 30000u});
  MemoryBackend other(kBytes);
  for (int i = 0; i < 30; ++i) {
    const ServedDevice device(control, device_spec(kBytes, 2, 64), other, {&thread});
    RandomIo short_io(driver().disk(device.id()),
                      {.depth = 4, .requests = 20, .zeroing = false, .discards = false});
    ASSERT_TRUE(short_io.wait(kHung));
  }
  ASSERT_TRUE(io.wait(kHung));
  EXPECT_EQ(io.error(), "");
}

// A submit queue of 256 under 4096 tags, also with a completion queue that overflows.
TEST_F(LifetimeTest, DeepQueueOnASmallRing) {
  for (const auto& [cq_entries, flags] :
       {std::pair(8192u, uint64_t{0}), {256u, 0}, {8192u, abi::kFlagBatchIo}}) {
    ublk::Control control(driver());
    RingThread thread(cq_entries);
    MemoryBackend memory(4 * kBytes);
    WorkersBackend workers(memory, 2);
    ublk::Backend* const backends[] = {&memory, &workers};
    for (ublk::Backend* backend : backends) {
      ublk::DeviceSpec spec = device_spec(4 * kBytes, 1, abi::kMaxQueueDepth, 0, flags);
      spec.info.max_io_buf_bytes = 4096;
      spec.params.basic.max_sectors = 8;
      const ServedDevice device(control, spec, *backend, {&thread});
      const auto disk = driver().disk(device.id());
      RandomIo io(disk, {.depth = abi::kMaxQueueDepth,
                         .requests = kSanitized ? 20000u : 100000u,
                         .max_sectors = 1});
      ASSERT_TRUE(io.wait(kHung)) << io.completed() << " requests have ended";
      EXPECT_EQ(io.error(), "");
      EXPECT_EQ(disk->write_zeroes(0, 4 * kBytes / 512), 0);
    }
  }
}

// A device that nobody has used costs no pages of buffers.
TEST_F(LifetimeTest, UntouchedBuffersCostNoMemory) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need memory of their own";
  ublk::Control control(driver());
  RingThread thread;
  MemoryBackend memory(kBytes);
  const auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    long size = 0;
    long pages = 0;
    statm >> size >> pages;
    return pages * 4;
  };
  const ServedDevice first(control, device_spec(kBytes, 1, 128), memory, {&thread});
  const long before = resident();
  std::vector<std::unique_ptr<ServedDevice>> devices;
  devices.reserve(20);
  for (int i = 0; i < 20; ++i)
    devices.push_back(std::make_unique<ServedDevice>(control, device_spec(kBytes, 1, 128), memory,
                                                     std::vector{&thread}));
  // 128 tags of 256 KiB each are 32 MiB a device.
  EXPECT_LT(resident() - before, 20 * 256) << "KiB";
}

}  // namespace
}  // namespace fake
