// SPDX-License-Identifier: MIT
// Devices on the real driver whose data come by GET_DATA, or are moved by their server.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "device_io.h"
#include "served_device.h"
#include "user_copy_backend.h"

namespace {

using ublk::Operation;
using ublk::Request;

// Provides a buffer of just the request's size, sometimes from another thread, and counts.
class GetDataBackend : public ublk::Backend {
 public:
  explicit GetDataBackend(size_t bytes) : data_(bytes) {}

  void need_buffer(Request request) override {
    ASSERT_EQ(request.op(), Operation::kWrite);
    std::byte* buffer = allocate(request.length());
    if (++asked_ % 3 == 0)
      threads_.emplace_back(
          [request = std::move(request), buffer]() mutable { request.provide_buffer(buffer); });
    else
      request.provide_buffer(buffer);
  }
  void submit(Request request) override {
    std::byte* data = data_.data() + request.offset();
    if (request.op() == Operation::kRead) {
      request.set_buffer(allocate(request.length()));
      std::memcpy(request.buffer(), data, request.length());
    } else if (request.op() == Operation::kWrite) {
      std::memcpy(data, request.buffer(), request.length());
    }
    request.complete(static_cast<int>(request.length()));
  }
  void buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) override {
    free(buffer);
    --outstanding;
  }
  int outstanding = 0;

 private:
  std::byte* allocate(size_t bytes) {
    ++outstanding;
    return static_cast<std::byte*>(aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  }
  std::vector<std::byte> data_;
  std::vector<std::jthread> threads_;
  int asked_ = 0;
};

TEST(Device, GetDataModeProvidesBuffersOnceTheSizeIsKnown) {
  GetDataBackend backend(4 << 20);
  {
    ublk::Control control;
    ServedDevice device(control, with_flag(device_spec(4 << 20), ublk::abi::kFlagNeedGetData),
                        backend);
    ASSERT_EQ(ublk::buffer_mode(device.device().info()), ublk::BufferMode::kGetData);
    exercise(device.path(), 4 << 20, 400);
  }
  EXPECT_EQ(backend.outstanding, 0);
}

class FailingGetDataBackend : public GetDataBackend {
 public:
  using GetDataBackend::GetDataBackend;
  void submit(Request request) override {
    if (failing && request.op() == Operation::kRead)
      request.complete(-ENOSPC);
    else
      GetDataBackend::submit(std::move(request));
  }
  void need_buffer(Request request) override {
    if (!failing) GetDataBackend::need_buffer(std::move(request));
  }
  std::atomic<bool> failing{false};
};

TEST(Device, GetDataModeFailsRequestsWithoutABuffer) {
  FailingGetDataBackend backend(1 << 20);
  ublk::Control control;
  ServedDevice device(control, with_flag(device_spec(1 << 20), ublk::abi::kFlagNeedGetData),
                      backend);
  const ublk::UniqueFd fd = device.open(O_RDWR | O_DIRECT);
  const AlignedBuffer buffer(4096);
  backend.failing = true;
  EXPECT_EQ(pread(fd.get(), buffer.data, 4096, 0), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(pwrite(fd.get(), buffer.data, 4096, 0), -1);
  EXPECT_EQ(errno, EIO);
  backend.failing = false;
  EXPECT_EQ(pwrite(fd.get(), buffer.data, 4096, 0), 4096);
}

TEST(Device, UserCopyModeMovesDataInParts) {
  UserCopyBackend backend(4 << 20);
  ublk::Control control;
  ServedDevice device(control, with_flag(device_spec(4 << 20), ublk::abi::kFlagUserCopy), backend);
  ASSERT_EQ(ublk::buffer_mode(device.device().info()), ublk::BufferMode::kUserCopy);
  exercise(device.path(), 4 << 20, 400);
}

}  // namespace
