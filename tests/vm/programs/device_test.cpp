// SPDX-License-Identifier: MIT
// Whole devices on the real driver: every kind of request, many queues on a ring, and a complete
// end.
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <list>
#include <map>
#include <mutex>
#include <random>

#include "served_device.h"

namespace {

using ublk::Operation;
using ublk::Request;

// A RAM disk that remembers what it was asked. On one ring thread.
class RecordingBackend : public ublk::Backend {
 public:
  explicit RecordingBackend(size_t bytes) : data_(bytes) {}

  void submit(Request request) override {
    {
      const std::lock_guard lock(mutex_);
      ++counts_[request.op()];
      if (request.fua()) ++fua_;
    }
    std::byte* data = data_.data() + (request.op() == Operation::kFlush ? 0 : request.offset());
    switch (request.op()) {
      case Operation::kRead:
        std::memcpy(request.buffer(), data, request.length());
        break;
      case Operation::kWrite:
        std::memcpy(data, request.buffer(), request.length());
        break;
      case Operation::kWriteZeroes:
      case Operation::kDiscard:
        std::memset(data, 0, request.length());
        break;
      default:
        break;
    }
    request.complete(static_cast<int>(request.length()));
  }

  int count(Operation op) {
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
  std::map<Operation, int> counts_;
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
void read_from_threads(const std::string& path, int rounds) {
  std::vector<std::jthread> readers;
  for (int i = 0; i < 4; ++i)
    readers.emplace_back([&path, rounds] {
      const ublk::UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
      const AlignedBuffer buffer(4096);
      for (int n = 0; n < rounds; ++n) ASSERT_EQ(pread(fd.get(), buffer.data, 4096, 0), 4096);
    });
}

// Random reads and writes of all sizes against a model.
void exercise(const std::string& path, size_t bytes, int rounds) {
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

ublk::DeviceSpec with_flag(ublk::DeviceSpec spec, uint64_t flag) {
  spec.info.flags |= flag;
  return spec;
}

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

// Moves the data itself, in two parts, on the ring's thread or on another one.
class UserCopyBackend : public ublk::Backend {
 public:
  explicit UserCopyBackend(size_t bytes) : data_(bytes) {}
  void submit(Request request) override {
    if (++count_ % 3 == 0)
      threads_.emplace_back(
          [this, request = std::move(request)]() mutable { serve(std::move(request)); });
    else
      serve(std::move(request));
  }

 private:
  void serve(Request request) {
    std::byte* data = data_.data() + request.offset();
    const uint32_t length = request.length();
    ssize_t done = length;
    if (request.op() == Operation::kRead)
      done = request.write_data(data + 512, length - 512, 512) + request.write_data(data, 512, 0);
    else if (request.op() == Operation::kWrite)
      done = request.read_data(data + 512, length - 512, 512) + request.read_data(data, 512, 0);
    request.complete(static_cast<int>(done));
  }
  std::vector<std::byte> data_;
  std::vector<std::jthread> threads_;
  int count_ = 0;
};

TEST(Device, UserCopyModeMovesDataInParts) {
  UserCopyBackend backend(4 << 20);
  ublk::Control control;
  ServedDevice device(control, with_flag(device_spec(4 << 20), ublk::abi::kFlagUserCopy), backend);
  ASSERT_EQ(ublk::buffer_mode(device.device().info()), ublk::BufferMode::kUserCopy);
  exercise(device.path(), 4 << 20, 400);
}

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

bool has_feature(uint64_t flag) {
  ublk::Control control;
  return (control.features() & flag) != 0;
}

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

bool has_batch_io() { return has_feature(ublk::abi::kFlagBatchIo); }

TEST(Device, BatchServesEveryKindOfRequest) {
  if (!has_batch_io()) GTEST_SKIP() << "needs Linux 7.0";
  for (const uint64_t flags : {uint64_t{0}, ublk::abi::kFlagUserCopy}) {
    UserCopyBackend user_copy(4 << 20);
    RecordingBackend copy(4 << 20);
    ublk::Backend& backend = flags == 0 ? static_cast<ublk::Backend&>(copy) : user_copy;
    ublk::Control control;
    ServedDevice device(
        control, with_flag(device_spec(4 << 20, 2, 64), ublk::abi::kFlagBatchIo | flags), backend);
    ASSERT_NE(device.device().info().flags & ublk::abi::kFlagBatchIo, 0u);
    exercise(device.path(), 4 << 20, 400);
  }
}

class FloodingBackend : public RecordingBackend {
 public:
  using RecordingBackend::RecordingBackend;
  void submit(Request request) override {
    RecordingBackend::submit(std::move(request));
    served = true;
  }
  bool served = false;
};

// The kernel takes a buffer for new tags, finds no room for the CQE that would say which, and ends
// the fetch. It must be found again: there are 256. The next request is likely to come while the
// ring is busy with what fills its completion queue.
TEST(Device, BatchSurvivesAFullCompletionQueue) {
  if (!has_batch_io()) GTEST_SKIP() << "needs Linux 7.0";
  constexpr unsigned kEntries = 256;
  constexpr size_t kBytes = 4 << 20;
  FloodingBackend backend(kBytes);
  unsigned turns = 0;
  ublk::Control control;
  ublk::Device device(control, with_flag(device_spec(kBytes), ublk::abi::kFlagBatchIo));
  ServingThread thread({device.node()}, backend, kEntries, [&backend, &turns](ublk::Ring& ring) {
    if (!std::exchange(backend.served, false) || ++turns % 3 != 0) return;
    for (unsigned i = 0; i < kEntries + 10; ++i) {
      io_uring_sqe* sqe = ring.get_sqe();
      ASSERT_NE(sqe, nullptr);
      io_uring_prep_nop(sqe);
      sqe->user_data = 1;
    }
  });
  device.start();
  read_from_threads(device.block_path(), 2000);
  exercise(device.block_path(), kBytes, 200);
  device.stop();
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

TEST(Device, HundredsComeAndGoWithoutATrace) {
  RecordingBackend backend(1 << 20);
  ublk::Control control;
  const auto round = [&] {
    const ServedDevice device(control, device_spec(1 << 20, 2, 64), backend);
  };
  for (int i = 0; i < 50; ++i) round();  // until the allocator has what it wants
  const Resources before = Resources::now();
  for (int i = 0; i < 200; ++i) round();
  const Resources after = Resources::now();
  EXPECT_EQ(after.fds, before.fds);
  EXPECT_LE(after.maps, before.maps + 4);
  // Five pages a device: the heap still settles after other tests (seen: 340 pages, and none of
  // them when this test runs alone, however often); a queue's buffers or slots would be far more.
  EXPECT_LE(after.pages, before.pages + 1000);
  // io-wq keeps a thread or two for a while.
  EXPECT_LE(after.threads, before.threads + 4);
}

}  // namespace
