// SPDX-License-Identifier: MIT
// Devices on the real driver that come and go, and what they leave behind: nothing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>

#include "device_io.h"
#include "served_device.h"

namespace {

struct Resources {
  long fds, maps, threads, pages;
  static Resources now() {
    const auto entries = [](const char* path) {
      return std::distance(std::filesystem::directory_iterator(path), {});
    };
    std::ifstream maps("/proc/self/maps");
    long size = 0;
    long resident = 0;
    std::ifstream("/proc/self/statm") >> size >> resident;
    return {entries("/proc/self/fd"), std::count(std::istreambuf_iterator<char>(maps), {}, '\n'),
            entries("/proc/self/task"), resident};
  }
};

// The other's commands wait in the ring as long as it has no I/O.
TEST(Device, OneGoesWhileAnotherOnItsRingIsIdle) {
  RecordingBackend backend(1 << 20);
  ublk::Control control;
  ublk::Device stays(control, device_spec(1 << 20, 2, 64));
  auto goes = std::make_unique<ublk::Device>(control, device_spec(1 << 20, 2, 64));
  const ServingThread thread({stays.node(), goes->node()}, backend);
  stays.start();
  goes->start();
  goes->stop();
  const auto begin = std::chrono::steady_clock::now();
  goes.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  {
    const ublk::UniqueFd fd(open(stays.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    alignas(4096) static char block[4096];
    EXPECT_EQ(pread(fd.get(), block, sizeof(block), 0), 4096) << strerror(errno);
  }
  stays.stop();
}

TEST(Device, HundredsComeAndGoWithoutATrace) {
  RecordingBackend backend(1 << 20);
  ublk::Control control;
  const auto round = [&] {
    const ServedDevice device(control, device_spec(1 << 20, 2, 64), backend);
  };
  for (int i = 0; i < 50; ++i) round();  // until the allocator has what it wants
  const Resources before = Resources::now();
  Resources after = before;
  // What leaks grows with every device. The heap, which still settles after other tests, grows now
  // and then, once by 1000 pages: so the least of several times counts, and less than a page for
  // each device is nothing of a device's.
  constexpr long kDevices = 50;
  long growth = std::numeric_limits<long>::max();
  for (int time = 0; time < 4; ++time) {
    const Resources last = after;
    for (int i = 0; i < kDevices; ++i) round();
    after = Resources::now();
    growth = std::min(growth, after.pages - last.pages);
  }
  EXPECT_LT(growth, kDevices);
  EXPECT_EQ(after.fds, before.fds);
  EXPECT_LE(after.maps, before.maps + 4);
  // io-wq keeps a thread or two for a while.
  EXPECT_LE(after.threads, before.threads + 4);
}

}  // namespace
