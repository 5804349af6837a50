// SPDX-License-Identifier: MIT
// The fake's /dev/ublkbN: where tests put their I/O.
#ifndef UBLK_TESTS_FAKE_DISK_H
#define UBLK_TESTS_FAKE_DISK_H

#include <ublk/abi.h>
#include <ublk/request.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "loop.h"

namespace fake {

class Device;
class Disk;

// One request of the block layer. It reaches the server as it is: nothing is split, merged, cached
// or retried.
struct Io {
  ublk::Operation op = ublk::Operation::kRead;
  uint64_t sector = 0;
  uint32_t sectors = 0;
  std::byte* data = nullptr;  // of a read or write, until `done` has been called
  uint32_t flags = 0;         // abi::kIoFlag*
  int queue = kAnyQueue;

  static constexpr int kAnyQueue = -1;  // one after the other

  // What the kernel fails to copy of a write to the buffer that NEED_GET_DATA has given it.
  enum class Lost : uint8_t {
    kNone,
    kHalf,
    kAll,  // the first time; the write is put back and tried once more
  };
  Lost lost = Lost::kNone;
};

// "WRITE"; for signal handlers, too.
const char* operation_name(ublk::Operation op) noexcept;
// "WRITE of 4096 bytes at 8192"
std::string to_string(const Io& io);

// How an I/O has ended: 0 or -errno, as the block layer would say it. On the driver's thread, so it
// must not wait; it may submit.
using Done = std::function<void(int result)>;

struct BlockRequest {
  Io io;
  Done done;
  std::shared_ptr<Disk> disk;  // nullptr: the driver's own, the partition scan

  size_t bytes() const { return size_t{io.sectors} * ublk::abi::kSectorSize; }
  bool has_data() const {
    return io.op == ublk::Operation::kRead || io.op == ublk::Operation::kWrite;
  }
};

// From START_DEV until the device is stopped or dies; an old Disk fails all I/O with EIO. Holding
// one is like having the node open: TRY_STOP_DEV fails then, DEL_DEV waits, and a device that has
// lost its server can't be started again. Any thread; hold none longer than the driver.
class Disk : public std::enable_shared_from_this<Disk> {
 public:
  Disk(Loop& loop, Device& device, uint64_t sectors)
      : loop_(loop), device_(&device), sectors_(sectors) {}
  ~Disk();
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  // Any number may be under way; what finds no free tag waits for one.
  void submit(const Io& io, Done done);
  // Submits and waits. Not in a Done.
  int run(const Io& io);
  int read(uint64_t sector, uint32_t sectors, std::byte* data);
  int write(uint64_t sector, uint32_t sectors, const std::byte* data, uint32_t flags = 0);
  int flush();
  int discard(uint64_t sector, uint32_t sectors);
  int write_zeroes(uint64_t sector, uint32_t sectors, uint32_t flags = 0);

  uint64_t sectors() const { return sectors_.load(std::memory_order_relaxed); }

 private:
  friend class Device;

  Loop& loop_;
  Device* device_;  // the loop's thread's; nullptr: the disk has gone
  std::atomic<uint64_t> sectors_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_DISK_H
