// SPDX-License-Identifier: MIT
// A request's buffer, where the backend provides it: given back once, and nobody else's.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "request_fixture.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using ublk::Operation;
using ublk::Request;

// Fails some writes before and some after it has provided a buffer, and counts the buffers.
class GetDataBackend : public ublk::Backend {
 public:
  void submit(Request request) override {
    const bool fail = request.op() == Operation::kWrite && request.sector() % 3 == 1;
    if (request.op() == Operation::kRead && request.sector() % 3 == 0) request.set_buffer(take());
    request.complete(fail ? -ENOSPC : length_of(request));
  }
  void need_buffer(Request request) override {
    const uint64_t id = request.id();
    if (request.sector() % 3 == 0) return;  // dropped
    EXPECT_TRUE(request.provide_buffer(take()));
    EXPECT_FALSE(Request::complete(id, -EIO)) << "completed while its data is being fetched";
    EXPECT_FALSE(Request::provide_buffer(id, nullptr));
  }
  void buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) override {
    --buffers;
    delete[] buffer;
  }
  std::atomic<int> buffers{0};

 private:
  std::byte* take() {
    ++buffers;
    return new std::byte[4096];
  }
};

TEST_F(RequestTest, GetDataGivesEachBufferBackOnce) {
  GetDataBackend backend;
  ublk::Control control(driver());
  RingThread thread;
  {
    ServedDevice device(control, device_spec(kBytes, 1, 4, 0, abi::kFlagNeedGetData), backend,
                        {&thread});
    const auto disk = driver().disk(device.id());
    std::vector<std::byte> data(4096);
    for (uint64_t sector = 0; sector < 300; ++sector) {
      const int write = disk->write(sector, 8, data.data());
      EXPECT_EQ(write, sector % 3 == 0 ? -EIO : sector % 3 == 1 ? -ENOSPC : 0) << sector;
      // A read that claims success without a buffer has failed.
      EXPECT_EQ(disk->read(sector, 8, data.data()), sector % 3 == 0 ? 0 : -EIO) << sector;
    }
  }
  EXPECT_EQ(backend.buffers, 0);
}

// A disk in get-data mode, whose buffers have old data of others.
class GetDataDisk : public ublk::Backend {
 public:
  ~GetDataDisk() override { EXPECT_EQ(buffers, 0); }

  void submit(Request request) override {
    const auto at = static_cast<std::ptrdiff_t>(request.offset());
    const int length = length_of(request);
    if (request.op() == Operation::kRead) {
      request.set_buffer(take());
      std::copy_n(data.begin() + at, length, request.buffer());
    } else {
      std::copy_n(request.buffer(), length, data.begin() + at);
    }
    request.complete(length);
  }
  void need_buffer(Request request) override { request.provide_buffer(take()); }
  void buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) override {
    --buffers;
    delete[] buffer;
  }
  std::vector<std::byte> data = std::vector<std::byte>(kBytes);
  int buffers = 0;

 private:
  std::byte* take() {
    ++buffers;
    auto* buffer = new std::byte[4096];
    std::fill_n(buffer, 4096, std::byte{0x55});
    return buffer;
  }
};

// It has one tag.
struct GetDataDevice {
  explicit GetDataDevice(Driver& driver) : control(driver) {}
  GetDataDisk backend;
  ublk::Control control;
  RingThread thread;
  const ServedDevice device{
      control, device_spec(kBytes, 1, 1, 0, abi::kFlagNeedGetData), backend, {&thread}};
};

// The kernel had no memory to copy a write's data: what has not come is not written.
TEST_F(RequestTest, GetDataThatIsLostIsNotWritten) {
  const GetDataDevice served(driver());
  const auto disk = driver().disk(served.device.id());
  std::vector<std::byte> ones(4096, std::byte{1});
  std::vector<std::byte> read(4096);
  Io write = {.op = Operation::kWrite, .sector = 8, .sectors = 8, .data = ones.data()};
  write.lost = Io::Lost::kHalf;
  EXPECT_EQ(disk->run(write), -EIO);
  EXPECT_EQ(disk->read(8, 8, read.data()), 0);
  EXPECT_EQ(read, std::vector<std::byte>(4096)) << "of a write that has failed";

  write.lost = Io::Lost::kAll;
  EXPECT_EQ(disk->run(write), 0);
  EXPECT_EQ(disk->read(8, 8, read.data()), 0);
  EXPECT_EQ(read, ones);
  EXPECT_EQ(disk->read(0, 8, read.data()), 0);
  EXPECT_EQ(read, std::vector<std::byte>(4096));
}

// Its one tag has another request when the answer comes.
TEST_F(RequestTest, GetDataThatIsLostIsAnsweredByTheNextRequest) {
  const GetDataDevice served(driver());
  const auto disk = driver().disk(served.device.id());
  std::vector<std::byte> ones(4096, std::byte{1});
  std::vector<std::byte> read(4096, std::byte{2});
  for (int i = 0; i < 100; ++i) {
    std::promise<int> written;
    Io write = {.op = Operation::kWrite, .sector = 8, .sectors = 8, .data = ones.data()};
    write.lost = Io::Lost::kAll;
    disk->submit(write, [&](int result) { written.set_value(result); });
    EXPECT_EQ(disk->read(16, 8, read.data()), 0);
    EXPECT_EQ(read, std::vector<std::byte>(4096)) << "the read has got the write's buffer";
    EXPECT_EQ(written.get_future().get(), 0);
  }
  EXPECT_EQ(disk->read(8, 8, read.data()), 0);
  EXPECT_EQ(read, ones);
}

// Keeps the read of one sector, with its buffer, until a flush comes; then another thread completes
// it.
class KeepingBackend : public ublk::Backend {
 public:
  static constexpr uint64_t kSector = 8;

  void submit(Request request) override {
    const bool keep = request.sector() == kSector && request.sectors() == 1;
    if (request.op() == Operation::kRead)
      request.set_buffer(keep ? kept_buffer_.data() : buffer_.data());
    if (keep) {
      kept_ = request.release();
      return;
    }
    if (request.op() == Operation::kFlush)
      std::thread([this] { EXPECT_TRUE(Request::complete(kept_, 512)); }).join();
    request.complete(length_of(request));
  }
  void buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) override {
    if (buffer == kept_buffer_.data()) done.set_value();
  }
  std::promise<void> done;

 private:
  uint64_t kept_ = 0;
  std::vector<std::byte> kept_buffer_ = std::vector<std::byte>(512);
  std::vector<std::byte> buffer_ = std::vector<std::byte>(1 << 20);
};

// The ring's thread has seen no CQE of the completion when it is about to sleep, and gets none.
TEST_F(RequestTest, NoBufferIsKeptWhileTheThreadSleeps) {
  KeepingBackend backend;
  ublk::Control control(driver());
  RingThread thread;
  const ServedDevice device(
      control, device_spec(kBytes, 1, 4, abi::kAttrVolatileCache, abi::kFlagNeedGetData), backend,
      {&thread});
  const auto disk = driver().disk(device.id());
  std::vector<std::byte> data(512);
  std::promise<int> result;
  disk->submit({.op = Operation::kRead,
                .sector = KeepingBackend::kSector,
                .sectors = 1,
                .data = data.data()},
               [&result](int r) { result.set_value(r); });
  disk->submit({.op = Operation::kFlush}, [](int r) { EXPECT_EQ(r, 0); });
  EXPECT_EQ(result.get_future().get(), 0);
  EXPECT_EQ(backend.done.get_future().wait_for(kHung), std::future_status::ready);
}

// In /dev/ublkcN the data of the next tag follows.
TEST_F(RequestTest, DataPastTheEndIsNotAnotherRequests) {
  std::vector<Request> both;
  std::promise<void> ended;
  Served served(
      driver(),
      [&](Request request) {
        both.push_back(std::move(request));
        if (both.size() < 2) return;
        const std::byte stray{};
        for (Request& each : both)
          EXPECT_EQ(each.write_data(&stray, 1, abi::kUserCopyMaxIoBytes), -EINVAL);
        std::vector<std::byte> more(8192, std::byte{1});
        EXPECT_EQ(both[0].write_data(more.data(), more.size(), 512), 3584);
        EXPECT_EQ(both[0].write_data(more.data(), more.size(), 4096), 0);
        for (Request& each : both) each.complete(-EIO);
        ended.set_value();
      },
      device_spec(kBytes, 1, 2, 0, abi::kFlagUserCopy));
  std::vector<std::byte> data(4096);
  for (int i = 0; i < 2; ++i)
    served.disk->submit({.op = Operation::kRead, .sectors = 8, .data = data.data()}, [](int) {});
  EXPECT_EQ(ended.get_future().wait_for(kHung), std::future_status::ready);
}

TEST_F(RequestTest, UserCopyOfMoreThanATagHasRoomForIsRefused) {
  FunctionBackend backend([](Request request) { request.complete(-EIO); });
  ublk::Control control(driver());
  ublk::DeviceSpec spec = device_spec(kBytes, 1, 2, 0, abi::kFlagUserCopy);
  spec.info.max_io_buf_bytes = 2 * abi::kUserCopyMaxIoBytes;
  RingThread thread;
  EXPECT_THROW(ServedDevice(control, spec, backend, {&thread}), ublk::Error);
}

// Has one buffer for all: a request waits until the one before has given it back, and then is
// served inside buffer_done().
class OneBufferBackend : public ublk::Backend {
 public:
  void submit(Request request) override {
    if (request.op() == Operation::kWrite)
      request.complete(length_of(request));
    else
      wait_or_serve(std::move(request));
  }
  void need_buffer(Request request) override { wait_or_serve(std::move(request)); }
  void buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) override {
    EXPECT_EQ(buffer, buffer_.data());
    EXPECT_TRUE(busy_);
    busy_ = false;
    if (waiting_.empty()) return;
    Request next = std::move(waiting_.front());
    waiting_.pop_front();
    wait_or_serve(std::move(next));
  }

 private:
  void wait_or_serve(Request request) {
    if (busy_) {
      waiting_.push_back(std::move(request));
      return;
    }
    busy_ = true;
    if (request.op() == Operation::kWrite) {
      request.provide_buffer(buffer_.data());
      return;
    }
    request.set_buffer(buffer_.data());
    request.complete(length_of(request));
  }

  std::vector<std::byte> buffer_ = std::vector<std::byte>(4096);
  bool busy_ = false;
  std::deque<Request> waiting_;
};

TEST_F(RequestTest, BufferIsHandedOnInsideBufferDone) {
  OneBufferBackend backend;
  ublk::Control control(driver());
  RingThread thread;
  const ServedDevice device(control, device_spec(kBytes, 2, 16, 0, abi::kFlagNeedGetData), backend,
                            {&thread});
  const auto disk = driver().disk(device.id());
  constexpr int kRequests = 2000;
  std::vector<std::byte> data(4096);
  std::atomic<int> left{kRequests};
  std::promise<void> ended;
  for (int i = 0; i < kRequests; ++i)
    disk->submit({.op = i % 3 == 0 ? Operation::kWrite : Operation::kRead,
                  .sectors = 8,
                  .data = data.data()},
                 [&](int result) {
                   EXPECT_EQ(result, 0);
                   if (--left == 0) ended.set_value();
                 });
  EXPECT_EQ(ended.get_future().wait_for(kHung), std::future_status::ready) << left << " hang";
}

}  // namespace
}  // namespace fake
