// SPDX-License-Identifier: MIT
//
// The file handler: a disk in a file or on a block device, read and written on the queue's ring or
// by worker threads.

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <system_error>
#include <ublk/handler.hpp>

#include "backing.h"
#include "file_lock.h"
#include "write_back_watch.h"

namespace file {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ublk::Io;
using ublk::Task;

constexpr uint32_t kMaxDiscard = 1u << 30;
constexpr uint32_t kMaxWriteZeroes = 128u << 20;
constexpr uint32_t kZeroesSize = 256u << 10;
constexpr milliseconds kLockInterval{50};
constexpr milliseconds kFirstRetry{1};
constexpr unsigned kMaxRetries = 10;  // the delay doubles: a second in all

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

// What is written where the storage has no command that zeroes. Never written to, so it costs no
// more than the page of zeroes that the kernel has anyway.
alignas(4096) std::byte zeroes[kZeroesSize];

BackingOptions backing_options(const ublk::OpenArgs& args) {
  BackingOptions options;
  options.path = args.text("path");
  if (args.is_set("size")) options.size = args.number("size");
  options.offset = args.number("offset");
  options.create = args.boolean("create");
  options.direct = args.boolean("direct");
  options.read_only = args.read_only();
  options.recovering = args.recovering();
  return options;
}

// Whether the ring has the discard command of block devices, and does what it is told: since Linux
// 6.12, but from 6.17 to 7.1 it may discard another range. There are releases of 6.18 and 7.1 in
// which a command that is taken at once never gets its range (mended by "block: fix
// IORING_URING_CMD_REISSUE flags check"), and before 7.2 one that has to wait reads it again, from
// a slot of the ring that has another command by then ("copy SQE before issue_blocking punt").
constexpr bool ring_discards_block_devices(int major, int minor) {
  const int version = major * 1000 + minor;
  return (version >= 6012 && version <= 6016) || version >= 7002;
}
static_assert(!ring_discards_block_devices(6, 11) && ring_discards_block_devices(6, 12));
static_assert(ring_discards_block_devices(6, 16) && !ring_discards_block_devices(6, 17));
static_assert(!ring_discards_block_devices(7, 1) && ring_discards_block_devices(7, 2));

bool ring_discards_block_devices() {
  utsname system;
  int major = 0;
  int minor = 0;
  if (uname(&system) != 0 || std::sscanf(system.release, "%d.%d", &major, &minor) != 2)
    return false;
  return ring_discards_block_devices(major, minor);
}

bool is_passing(int result) { return result == -EINTR || result == -EAGAIN; }

bool is_unsupported(int result) { return result == -EOPNOTSUPP || result == -ENOSYS; }

// Found before anything was synced, so no data of others are lost.
bool is_error_of_one_write(int result) {
  return result == -ENOSPC || result == -EDQUOT || result == -EFBIG || result == -EPERM ||
         result == -ECANCELED || result == -ENOMEM;
}

// The kernel waits by itself where a read or write would block, so these two errors are rare: a
// filesystem that was interrupted or that lacked something for the moment. The operation is done
// anew after a while, and an error that stays is passed on as EIO.
template <class Operation>
Task<int> again(Io& io, Operation operation) {
  for (unsigned retry = 0; retry < kMaxRetries; ++retry) {
    int result = co_await io.sleep(kFirstRetry * (1u << retry));
    if (result == 0) result = co_await operation;
    if (!is_passing(result)) co_return result;
  }
  co_return -EIO;
}

// An operation, done again if need be.
template <class Operation>
Task<int> done(Io& io, Operation operation) {
  int result = co_await operation;
  if (is_passing(result)) result = co_await again(io, operation);
  co_return result;
}

class File final : public ublk::CoroutineHandler {
 public:
  static constexpr const char* kName = "file";
  static constexpr const char* kSummary = "a file or a block device";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr ublk_option kOptions[] = {
      ublk::path_option("path", "The file or block device that holds the data.",
                        {.required = true}),
      ublk::size_option("size",
                        "Size of the device, a multiple of its block; without it, the rest of the "
                        "file from offset on.",
                        {.minimum = 4096}),
      ublk::bool_option("create",
                        "Makes a file that is missing, and makes a shorter one longer, to hold "
                        "size bytes.",
                        {.default_value = "false"}),
      ublk::size_option("offset", "Where in the file the device starts, a multiple of its block.",
                        {.default_value = "0"}),
      ublk::bool_option("direct", "Reads and writes past the page cache (O_DIRECT).",
                        {.default_value = "false"}),
      ublk::choice_option("io", "ring|workers",
                          "Whether the file is accessed by io_uring on the queue's ring or by "
                          "system calls that block worker threads.",
                          {.default_value = "ring"}),
  };

  explicit File(const ublk::OpenArgs& args);
  void geometry(ublk_geometry& geometry) override;
  void fence(milliseconds timeout) override;

  Task<int> read(Io& io) override;
  Task<int> write(Io& io) override;
  Task<int> flush(Io& io) override;
  Task<int> discard(Io& io) override;
  Task<int> write_zeroes(Io& io) override;

 private:
  int fd() const { return backing_.fd(); }
  uint64_t position(const Io& io) const { return backing_.offset() + io.offset(); }  // in the file

  auto fallocate(Io& io, int mode) const {
    return done(io, io.fallocate(fd(), mode, position(io), io.length()));
  }
  Task<int> write_blocks_of_zeroes(Io& io);

  int whole_blocks(int result, uint32_t length) const;
  int synced(int result);
  void remember_sync_error(int error);
  int too_short(uint64_t position);

  const ublk_host& host_;
  ublk_device* const device_;
  const bool on_workers_;
  const bool recovering_;
  const bool ring_discards_ = ring_discards_block_devices();
  Backing backing_;
  std::optional<WriteBackWatch> write_back_;  // once the file may be written to
  std::atomic<bool> can_punch_hole_{true};
  std::atomic<bool> can_zero_range_{true};
  std::atomic<bool> told_of_end_{false};
  std::atomic<int> sync_error_{0};
};

// ------------------------------------------------------- open, size, fence --

File::File(const ublk::OpenArgs& args)
    : host_(args.host()),
      device_(args.device()),
      on_workers_(args.text("io") == "workers"),
      recovering_(args.recovering()),
      backing_(backing_options(args)) {
  if (backing_.ignored_tail() > 0)
    host_.log(device_, UBLK_LOG_WARNING,
              "%s: the last %" PRIu64 " bytes are not part of the device: no whole block",
              backing_.path().c_str(), backing_.ignored_tail());
}

void File::geometry(ublk_geometry& geometry) {
  const Limits& limits = backing_.limits();
  geometry.size = backing_.size();
  geometry.logical_block_size = limits.logical_block;
  geometry.physical_block_size = limits.physical_block;
  geometry.io_min = limits.io_min;
  geometry.io_opt = limits.io_opt;
  geometry.dma_alignment = limits.dma_alignment;
  geometry.discard_granularity = limits.discard_granularity;
  geometry.discard_alignment = static_cast<uint32_t>(
      (limits.discard_granularity - backing_.offset() % limits.discard_granularity) %
      limits.discard_granularity);
  geometry.max_discard_size = kMaxDiscard;
  geometry.max_write_zeroes_size = kMaxWriteZeroes;
  geometry.flags |= UBLK_GEOMETRY_FUA;
  if (limits.rotational) geometry.flags |= UBLK_GEOMETRY_ROTATIONAL;
  if (!limits.can_discard) geometry.flags &= ~uint32_t{UBLK_GEOMETRY_DISCARD};
  if (backing_.read_only()) {
    geometry.flags |= UBLK_GEOMETRY_READ_ONLY;
    geometry.flags &= ~uint32_t{UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES};
  }
  // Past the page cache the pages of whoever uses the disk are written as they are: with holes
  // between them only at whole blocks, and they may change meanwhile. Workers don't need it, but a
  // device may come to be served on the ring.
  if (backing_.direct())
    geometry.dma_alignment = std::max(geometry.dma_alignment, geometry.logical_block_size);
  if (on_workers_) {
    geometry.model = UBLK_MODEL_WORKERS;
    return;
  }
  if (!limits.stable_writes) geometry.flags |= UBLK_GEOMETRY_ZERO_COPY;
  // One that has them already keeps them, and is told each time that they don't work.
  if (backing_.is_block_device() && !ring_discards_ && !recovering_)
    geometry.flags &= ~uint32_t{UBLK_GEOMETRY_DISCARD};
}

// Tries again and again, since the kernel has no flock with a time limit, and the lock's end sends
// no event that could be waited for.
void File::fence(milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  while (!backing_.acquire()) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds::zero())
      throw std::system_error(EBUSY, std::generic_category(),
                              backing_.path() + ": locked by " + lock_holder(backing_.fd()));
    poll(nullptr, 0, static_cast<int>(std::min(left, kLockInterval).count()));
  }
  if (!backing_.read_only()) write_back_.emplace(backing_.fd());
}

// ----------------------------------------------------------- read and write --

Task<int> File::read(Io& io) {
  auto read = io.read(fd(), io.data(), io.length(), position(io));
  int result = co_await read;
  if (is_passing(result)) result = co_await again(io, read);
  if (result == 0) result = too_short(position(io));
  co_return whole_blocks(result, io.length());
}

// Zeroes would be a lie: there were data once.
int File::too_short(uint64_t position) {
  if (!told_of_end_.exchange(true))
    host_.log(device_, UBLK_LOG_ERROR,
              "%s: ends before byte %" PRIu64 ": it has become shorter than the device",
              backing_.path().c_str(), position);
  return -EIO;
}

Task<int> File::write(Io& io) {
  auto write = io.write(fd(), io.data(), io.length(), position(io), io.fua() ? RWF_DSYNC : 0);
  int result = co_await write;
  if (is_passing(result)) result = co_await again(io, write);
  if (io.fua() && !is_error_of_one_write(result)) result = synced(result);
  co_return whole_blocks(result, io.length());
}

// O_DIRECT can't go on in the middle of a block, where a short result of its buffered fallback may
// end.
int File::whole_blocks(int result, uint32_t length) const {
  if (!backing_.direct() || result <= 0 || static_cast<uint32_t>(result) == length) return result;
  const int whole = result - result % static_cast<int>(backing_.limits().logical_block);
  return whole > 0 ? whole : -EIO;
}

// -------------------------------------------------------------------- flush --

Task<int> File::flush(Io& io) {
  if (const int error = sync_error_.load(std::memory_order_relaxed); error != 0) co_return error;
  int result = co_await done(io, io.fdatasync(fd()));
  result = synced(result);
  co_return result < 0 ? result : sync_error_.load(std::memory_order_relaxed);
}

// The result of a sync, or of a write that syncs itself.
int File::synced(int result) {
  if (result >= 0 && write_back_)
    if (const int error = write_back_->error(); error != 0) result = error;
  if (result < 0 && result != -ECANCELED) remember_sync_error(result);
  return result;
}

// The kernel reports a failed write-back and then forgets it, with the data. Whose flush got the
// error is chance (another partition's, maybe), and the next would succeed, though data are lost.
// So all flushes fail from then on, until the device is opened anew.
void File::remember_sync_error(int error) {
  int none = 0;
  if (sync_error_.compare_exchange_strong(none, error, std::memory_order_relaxed))
    host_.log(device_, UBLK_LOG_ERROR,
              "%s: data could not be made durable: %s; every flush fails until the device is "
              "opened anew",
              backing_.path().c_str(), std::generic_category().message(-error).c_str());
}

// ------------------------------------------------- discard and write-zeroes --

static Task<int> unsupported(Io&) { co_return -EOPNOTSUPP; }

// To punch a hole in a block device would be its write-zeroes command, which on many disks writes
// them one by one.
Task<int> File::discard(Io& io) {
  if (!backing_.is_block_device()) return fallocate(io, kPunchHole);
  if (!on_workers_ && !ring_discards_) return unsupported(io);
  return done(io, io.discard(fd(), position(io), io.length()));
}

// By a hole if the space may go, by the filesystem's own zeroing, and by writing zeroes, the first
// that the storage can do. What it can't do is found out at the first try.
Task<int> File::write_zeroes(Io& io) {
  int result = -EOPNOTSUPP;
  if (!io.no_unmap() && can_punch_hole_.load(std::memory_order_relaxed)) {
    result = co_await fallocate(io, kPunchHole);
    if (is_unsupported(result)) can_punch_hole_.store(false, std::memory_order_relaxed);
  }
  if (is_unsupported(result) && can_zero_range_.load(std::memory_order_relaxed)) {
    result = co_await fallocate(io, kZeroRange);
    if (is_unsupported(result)) can_zero_range_.store(false, std::memory_order_relaxed);
  }
  if (is_unsupported(result)) result = co_await write_blocks_of_zeroes(io);
  if (result < 0 || !io.fua()) co_return result;
  result = co_await done(io, io.fdatasync(fd()));
  co_return synced(result);
}

Task<int> File::write_blocks_of_zeroes(Io& io) {
  uint64_t offset = position(io);
  uint32_t left = io.length();
  while (left > 0) {
    const uint32_t length = std::min(left, kZeroesSize);
    int result = co_await done(io, io.write(fd(), zeroes, length, offset));
    if (result < 0) co_return result;
    result = whole_blocks(result, length);
    if (result <= 0) co_return -EIO;
    offset += static_cast<uint32_t>(result);
    left -= static_cast<uint32_t>(result);
  }
  co_return 0;
}

}  // namespace
}  // namespace file

UBLK_HANDLER(file::File)
