// SPDX-License-Identifier: MIT
// What devices on the real driver are read and written with, and a backend that is a RAM disk.
#ifndef UBLK_TESTS_VM_DEVICE_IO_H
#define UBLK_TESTS_VM_DEVICE_IO_H

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/types.h>
#include <ublk/control.h>
#include <ublk/device.h>
#include <ublk/request.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "served_device.h"

// A RAM disk that remembers what it was asked. On one ring thread.
class RecordingBackend : public ublk::Backend {
 public:
  explicit RecordingBackend(size_t bytes) : data_(bytes) {}

  void submit(ublk::Request request) override {
    {
      const std::lock_guard lock(mutex_);
      ++counts_[request.op()];
      if (request.fua()) ++fua_;
    }
    std::byte* data =
        data_.data() + (request.op() == ublk::Operation::kFlush ? 0 : request.offset());
    switch (request.op()) {
      case ublk::Operation::kRead:
        std::memcpy(request.buffer(), data, request.length());
        break;
      case ublk::Operation::kWrite:
        std::memcpy(data, request.buffer(), request.length());
        break;
      case ublk::Operation::kWriteZeroes:
      case ublk::Operation::kDiscard:
        std::memset(data, 0, request.length());
        break;
      default:
        break;
    }
    request.complete(static_cast<int>(request.length()));
  }

  int count(ublk::Operation op) {
    const std::lock_guard lock(mutex_);
    return counts_[op];
  }
  int fua() {
    const std::lock_guard lock(mutex_);
    return fua_;
  }

 private:
  std::vector<std::byte> data_;
  std::mutex mutex_;
  std::map<ublk::Operation, int> counts_;
  int fua_ = 0;
};

struct AlignedBuffer {
  explicit AlignedBuffer(size_t bytes) : data(static_cast<char*>(aligned_alloc(4096, bytes))) {}
  ~AlignedBuffer() { free(data); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  char* data;
};

// Four at once; `rounds` reads of each.
inline void read_from_threads(const std::string& path, int rounds) {
  std::vector<std::jthread> readers;
  for (int i = 0; i < 4; ++i)
    readers.emplace_back([&path, rounds] {
      const ublk::UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
      const AlignedBuffer buffer(4096);
      for (int n = 0; n < rounds; ++n) ASSERT_EQ(pread(fd.get(), buffer.data, 4096, 0), 4096);
    });
}

// Random reads and writes of all sizes against a model.
inline void exercise(const std::string& path, size_t bytes, int rounds) {
  const ublk::UniqueFd fd(open(path.c_str(), O_RDWR | O_DIRECT));
  ASSERT_TRUE(fd);
  std::mt19937 random(7);
  std::vector<char> model(bytes);
  const AlignedBuffer buffer(256 << 10);
  for (int round = 0; round < rounds; ++round) {
    const size_t length = 512 * (1 + random() % 512);
    const size_t offset = random() % ((bytes - length) / 512) * 512;
    if (random() % 2 != 0) {
      for (size_t b = 0; b < length; ++b) buffer.data[b] = static_cast<char>(random());
      std::memcpy(model.data() + offset, buffer.data, length);
      ASSERT_EQ(pwrite(fd.get(), buffer.data, length, offset), ssize_t(length));
    } else {
      ASSERT_EQ(pread(fd.get(), buffer.data, length, offset), ssize_t(length));
      ASSERT_EQ(std::memcmp(model.data() + offset, buffer.data, length), 0) << "round " << round;
    }
  }
}

inline ublk::DeviceSpec with_flag(ublk::DeviceSpec spec, uint64_t flag) {
  spec.info.flags |= flag;
  return spec;
}

inline bool has_feature(uint64_t flag) {
  ublk::Control control;
  return (control.features() & flag) != 0;
}

#endif  // UBLK_TESTS_VM_DEVICE_IO_H
