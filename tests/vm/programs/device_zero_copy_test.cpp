// SPDX-License-Identifier: MIT
// Devices on the real driver that are served from the requests' own pages.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "device_io.h"
#include "served_device.h"

namespace {

using ublk::Operation;
using ublk::Request;

// A file in memory that is read and written by the queue's ring: from and to the request's own
// pages where they are registered, else through a buffer. Takes every kind of device with zero
// copy.
class RingFileBackend : public ublk::Backend {
 public:
  RingFileBackend(size_t bytes, uint16_t depth)
      : file_(memfd_create("disk", MFD_CLOEXEC)), copies_(depth) {
    if (ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) throw std::bad_alloc();
  }

  void submit(Request request) override {
    const Operation op = request.op();
    const int index = request.buffer_index();
    if (op != Operation::kRead && op != Operation::kWrite) {
      request.complete(0);
      return;
    }
    if (fails != 0) {
      request.complete(fails);
    } else if (index < 0) {
      ++copied;
      copy(std::move(request));
    } else {
      ++registered;
      io_uring_sqe* sqe = request.queue().ring().get_sqe();
      if (op == Operation::kRead)
        io_uring_prep_read_fixed(sqe, file_.get(), nullptr, request.length(), request.offset(),
                                 index);
      else
        io_uring_prep_write_fixed(sqe, file_.get(), nullptr, request.length(), request.offset(),
                                  index);
      sqe->user_data = request.release();
    }
  }
  // The completions of what submit() has put on the ring.
  static void done(const io_uring_cqe& cqe) { Request::complete(cqe.user_data, cqe.res); }

  std::atomic<int> registered{0};
  std::atomic<int> copied{0};
  std::atomic<int> fails{0};

 private:
  void copy(Request request) {
    std::vector<std::byte>& data = copies_[request.tag()];
    const uint32_t length = request.length();
    const auto offset = static_cast<off_t>(request.offset());
    data.resize(length);
    ssize_t result = 0;
    if (request.op() == Operation::kWrite) {
      result = request.read_data(data.data(), length, 0);
      if (result == length) result = pwrite(file_.get(), data.data(), length, offset);
    } else {
      result = pread(file_.get(), data.data(), length, offset);
      if (result == length) result = request.write_data(data.data(), length, 0);
    }
    request.complete(static_cast<int>(result));
  }

  const ublk::UniqueFd file_;
  std::vector<std::vector<std::byte>> copies_;
};

constexpr uint64_t kExplicitZeroCopy = ublk::abi::kFlagSupportZeroCopy | ublk::abi::kFlagUserCopy;

// With and without the kernel's own registration: nothing is copied, and the data is right.
TEST(Device, ZeroCopyServesFromTheRequestsOwnPages) {
  constexpr size_t kBytes = 4 << 20;
  if (!has_feature(ublk::abi::kFlagSupportZeroCopy)) GTEST_SKIP() << "needs Linux 6.15";
  for (const uint64_t flags :
       {kExplicitZeroCopy, ublk::abi::kFlagAutoBufReg | ublk::abi::kFlagUserCopy}) {
    if (!has_feature(flags)) continue;
    RingFileBackend backend(kBytes, 32);
    {
      ublk::Control control;
      ServedDevice device(control, with_flag(device_spec(kBytes, 2), flags), backend,
                          RingFileBackend::done);
      exercise(device.path(), kBytes, 400);
      backend.fails = -ENOSPC;
      const ublk::UniqueFd fd = device.open(O_RDWR | O_DIRECT);
      const AlignedBuffer buffer(4096);
      EXPECT_EQ(pwrite(fd.get(), buffer.data, 4096, 0), -1);
      EXPECT_EQ(errno, ENOSPC);
      EXPECT_EQ(pread(fd.get(), buffer.data, 4096, 0), -1);
      backend.fails = 0;
      EXPECT_EQ(pread(fd.get(), buffer.data, 4096, 0), 4096);
    }
    EXPECT_GE(backend.registered, 400);
    EXPECT_EQ(backend.copied, 0);
  }
}

// Half of the slots are somebody else's: the kernel refuses them with EBUSY, and those requests are
// copied.
TEST(Device, ZeroCopyFallsBackWhereTheSlotIsTaken) {
  constexpr size_t kBytes = 4 << 20;
  constexpr uint16_t kDepth = 4;
  if (!has_feature(ublk::abi::kFlagSupportZeroCopy)) GTEST_SKIP() << "needs Linux 6.15";
  for (const uint64_t flags :
       {kExplicitZeroCopy, ublk::abi::kFlagAutoBufReg | ublk::abi::kFlagUserCopy}) {
    if (!has_feature(flags)) continue;
    RingFileBackend backend(kBytes, kDepth);
    const AlignedBuffer taken(4096);
    bool taking = false;
    ublk::Control control;
    ublk::Device device(control, with_flag(device_spec(kBytes, 1, kDepth), flags));
    ServingThread thread(
        {device.node()}, backend, 8192,
        [&](ublk::Ring& ring) {
          if (std::exchange(taking, true)) return;
          for (unsigned slot = 0; slot < kDepth; slot += 2) {
            const iovec iov = {taken.data, 4096};
            ASSERT_EQ(io_uring_register_buffers_update_tag(ring.uring(), slot, &iov, nullptr, 1),
                      1);
          }
        },
        RingFileBackend::done);
    device.start();
    read_from_threads(device.block_path(), 200);
    exercise(device.block_path(), kBytes, 200);
    device.stop();
    EXPECT_GT(backend.registered, 0);
    EXPECT_GT(backend.copied, 0);
  }
}

}  // namespace
