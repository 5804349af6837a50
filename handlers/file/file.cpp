// SPDX-License-Identifier: MIT
//
// The file handler: a disk in a file or on a block device, read and written on the queue's ring.

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <optional>
#include <system_error>
#include <ublk/handler.hpp>

#include "backing.h"
#include "file_lock.h"

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint32_t kMaxDiscard = 1u << 30;
constexpr uint32_t kMaxWriteZeroes = 128u << 20;
constexpr uint32_t kZeroesSize = 256u << 10;
constexpr uint32_t kBlockDiscard = _IO(0x12, 0);  // BLOCK_URING_CMD_DISCARD, since Linux 6.12
constexpr milliseconds kLockInterval{50};
constexpr milliseconds kFirstRetry{1};
constexpr unsigned kMaxRetries = 10;  // the delay doubles: a second in all

// What is written where the storage has no command that zeroes. Never written to, so it costs no
// more than the page of zeroes that the kernel has anyway.
alignas(4096) std::byte zeroes[kZeroesSize];

class File;

// One request on its way. `prepare` fills the SQE that is under way; `then` gets its result and
// answers as submit() does: with the request's result, or with UBLK_PENDING after it has issued the
// next SQE. In the tag's scratch.
struct Op : ublk_event, ublk_timer {
  File* file;
  ublk_queue* queue;
  void (File::*prepare)(const Op& op, io_uring_sqe* sqe) const;
  int (File::*then)(Op& op, int result);
  unsigned retries;  // of this SQE

  uint64_t id;
  std::byte* data;
  uint64_t offset;  // in the file
  uint32_t length;
  uint32_t done;  // bytes that are zeroed by writing
  bool fua;
  bool no_unmap;
};

file::BackingOptions backing_options(const ublk::OpenArgs& args) {
  file::BackingOptions options;
  options.path = args.text("path");
  if (args.is_set("size")) options.size = args.number("size");
  options.offset = args.number("offset");
  options.create = args.boolean("create");
  options.direct = args.boolean("direct");
  options.read_only = args.read_only();
  options.recovering = args.recovering();
  return options;
}

// Found before anything was synced, so no data of others are lost.
bool is_error_of_one_write(int result) {
  return result == -ENOSPC || result == -EDQUOT || result == -EFBIG || result == -EPERM;
}

bool is_unsupported(int result) { return result == -EOPNOTSUPP || result == -ENOSYS; }

class File final : public ublk::Handler {
 public:
  static constexpr const char* kName = "file";
  static constexpr const char* kSummary = "a file or a block device";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr uint32_t kScratchSize = sizeof(Op);
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
  };

  explicit File(const ublk::OpenArgs& args);
  void geometry(ublk_geometry& geometry) override;
  void fence(milliseconds timeout) override;

  int read(ublk::Io& io) override {
    return issue(begin(io), &File::prepare_read, &File::read_done);
  }
  int write(ublk::Io& io) override {
    return issue(begin(io), &File::prepare_write, &File::write_done);
  }
  int flush(ublk::Io& io) override;
  int discard(ublk::Io& io) override {
    return issue(begin(io), &File::prepare_discard, &File::discard_done);
  }
  int write_zeroes(ublk::Io& io) override { return zero(begin(io)); }

 private:
  using Prepare = decltype(Op::prepare);
  using Then = decltype(Op::then);

  Op& begin(const ublk::Io& io);
  int issue(Op& op, Prepare prepare, Then then);
  void put_on_ring(Op& op);
  void finish(Op& op, int result);
  static void on_event(ublk_event* event, int32_t result, uint32_t cqe_flags);
  static void on_retry(ublk_timer* timer);

  void prepare_read(const Op& op, io_uring_sqe* sqe) const;
  void prepare_write(const Op& op, io_uring_sqe* sqe) const;
  void prepare_sync(const Op& op, io_uring_sqe* sqe) const;
  void prepare_discard(const Op& op, io_uring_sqe* sqe) const;
  void prepare_punch_hole(const Op& op, io_uring_sqe* sqe) const;
  void prepare_zero_range(const Op& op, io_uring_sqe* sqe) const;
  void prepare_write_of_zeroes(const Op& op, io_uring_sqe* sqe) const;

  int read_done(Op& op, int result);
  int write_done(Op& op, int result);
  int flush_done(Op& op, int result);
  int discard_done(Op& op, int result);
  int zero(Op& op);
  int punch_hole_done(Op& op, int result);
  int zero_range_done(Op& op, int result);
  int write_of_zeroes_done(Op& op, int result);
  int zeroed(Op& op);
  int zeroes_synced(Op& op, int result);

  int whole_blocks(const Op& op, int result) const;
  void remember_sync_error(int error);

  const ublk_host& host_;
  ublk_device* const device_;
  file::Backing backing_;
  std::atomic<bool> can_punch_hole_{true};
  std::atomic<bool> can_zero_range_{true};
  std::atomic<bool> told_of_end_{false};
  std::atomic<int> sync_error_{0};
};

// ------------------------------------------------------- open, size, fence --

File::File(const ublk::OpenArgs& args)
    : host_(args.host()), device_(args.device()), backing_(backing_options(args)) {
  if (backing_.ignored_tail() > 0)
    host_.log(device_, UBLK_LOG_WARNING,
              "%s: the last %" PRIu64 " bytes are not part of the device: no whole block",
              backing_.path().c_str(), backing_.ignored_tail());
}

void File::geometry(ublk_geometry& geometry) {
  const file::Limits& limits = backing_.limits();
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
}

// Tries again and again, since the kernel has no flock with a time limit, and the lock's end sends
// no event that could be waited for.
void File::fence(milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  while (!backing_.acquire()) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds::zero())
      throw std::system_error(EBUSY, std::generic_category(),
                              backing_.path() + ": locked by " + file::lock_holder(backing_.fd()));
    poll(nullptr, 0, static_cast<int>(std::min(left, kLockInterval).count()));
  }
}

// ------------------------------------------------------ requests on the ring --

Op& File::begin(const ublk::Io& io) {
  Op& op = io.scratch<Op>();
  op.ublk_event::handle = on_event;
  op.ublk_timer::fired = on_retry;
  op.file = this;
  op.queue = io.queue();
  op.id = io.id();
  op.data = io.data();
  op.offset = backing_.offset() + io.offset();
  op.length = io.length();
  op.done = 0;
  op.fua = io.fua();
  op.no_unmap = io.no_unmap();
  return op;
}

int File::issue(Op& op, Prepare prepare, Then then) {
  op.prepare = prepare;
  op.then = then;
  op.retries = 0;
  put_on_ring(op);
  return UBLK_PENDING;
}

void File::put_on_ring(Op& op) {
  io_uring_sqe* sqe = host_.get_sqe(op.queue);
  (this->*op.prepare)(op, sqe);
  io_uring_sqe_set_data64(sqe, ublk_event_user_data(&op));
}

void File::on_event(ublk_event* event, int32_t result, uint32_t) {
  Op& op = *static_cast<Op*>(event);
  op.file->finish(op, result);
}

void File::on_retry(ublk_timer* timer) {
  Op& op = *static_cast<Op*>(timer);
  op.file->put_on_ring(op);
}

// The ring waits by itself where a read or write would block, so these two errors are rare: a
// filesystem that was interrupted or that lacked something for the moment. The SQE is issued anew
// after a while, and an error that stays is passed on as EIO.
void File::finish(Op& op, int result) {
  if (result == -EINTR || result == -EAGAIN) {
    if (op.retries < kMaxRetries) {
      const std::chrono::nanoseconds delay = kFirstRetry * (1u << op.retries++);
      host_.set_timer(op.queue, &op, static_cast<uint64_t>(delay.count()));
      return;
    }
    result = -EIO;
  }
  result = (this->*op.then)(op, result);
  if (result != UBLK_PENDING) host_.complete(op.id, result);
}

// ----------------------------------------------------------- read and write --

void File::prepare_read(const Op& op, io_uring_sqe* sqe) const {
  io_uring_prep_read(sqe, backing_.fd(), op.data, op.length, op.offset);
}

int File::read_done(Op& op, int result) {
  if (result != 0) return whole_blocks(op, result);
  // Zeroes would be a lie: there were data once.
  if (!told_of_end_.exchange(true))
    host_.log(device_, UBLK_LOG_ERROR,
              "%s: ends before byte %" PRIu64 ": it has become shorter than the device",
              backing_.path().c_str(), op.offset);
  return -EIO;
}

void File::prepare_write(const Op& op, io_uring_sqe* sqe) const {
  io_uring_prep_write(sqe, backing_.fd(), op.data, op.length, op.offset);
  if (op.fua) sqe->rw_flags = RWF_DSYNC;
}

int File::write_done(Op& op, int result) {
  if (op.fua && result < 0 && !is_error_of_one_write(result)) remember_sync_error(result);
  return whole_blocks(op, result);
}

// O_DIRECT can't go on in the middle of a block, where a short result of its buffered fallback may
// end.
int File::whole_blocks(const Op& op, int result) const {
  if (!backing_.direct() || result <= 0 || static_cast<uint32_t>(result) == op.length)
    return result;
  const int whole = result - result % static_cast<int>(backing_.limits().logical_block);
  return whole > 0 ? whole : -EIO;
}

// -------------------------------------------------------------------- flush --

int File::flush(ublk::Io& io) {
  if (const int error = sync_error_.load(std::memory_order_relaxed); error != 0) return error;
  return issue(begin(io), &File::prepare_sync, &File::flush_done);
}

void File::prepare_sync(const Op&, io_uring_sqe* sqe) const {
  io_uring_prep_fsync(sqe, backing_.fd(), IORING_FSYNC_DATASYNC);
}

int File::flush_done(Op&, int result) {
  if (result < 0) remember_sync_error(result);
  return sync_error_.load(std::memory_order_relaxed);
}

// The kernel reports a failed write-back once and then forgets it, with the data. Whose flush got
// the error is chance (another partition's, maybe), and the next would succeed, though data are
// lost. So all flushes fail from then on, until the device is opened anew.
void File::remember_sync_error(int error) {
  int none = 0;
  if (sync_error_.compare_exchange_strong(none, error, std::memory_order_relaxed))
    host_.log(device_, UBLK_LOG_ERROR,
              "%s: data could not be made durable: %s; every flush fails until the device is "
              "opened anew",
              backing_.path().c_str(), std::generic_category().message(-error).c_str());
}

// ---------------------------------------------------------------- discard --

// To punch a hole in a block device would be its write-zeroes command, which on many disks writes
// them one by one.
void File::prepare_discard(const Op& op, io_uring_sqe* sqe) const {
  if (!backing_.is_block_device()) return prepare_punch_hole(op, sqe);
  io_uring_prep_rw(IORING_OP_URING_CMD, sqe, backing_.fd(), nullptr, 0, 0);
  sqe->cmd_op = kBlockDiscard;
  sqe->addr = op.offset;
  sqe->addr3 = op.length;
}

void File::prepare_punch_hole(const Op& op, io_uring_sqe* sqe) const {
  io_uring_prep_fallocate(sqe, backing_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(op.offset), op.length);
}

int File::discard_done(Op&, int result) { return result; }

// -------------------------------------------------------------- write zeroes --
//
// By a hole if the space may go, by the filesystem's own zeroing, and by writing zeroes, the first
// that the storage can do. What it can't do is found out at the first try. With FUA a sync follows.

int File::zero(Op& op) {
  if (!op.no_unmap && can_punch_hole_.load(std::memory_order_relaxed))
    return issue(op, &File::prepare_punch_hole, &File::punch_hole_done);
  if (can_zero_range_.load(std::memory_order_relaxed))
    return issue(op, &File::prepare_zero_range, &File::zero_range_done);
  return issue(op, &File::prepare_write_of_zeroes, &File::write_of_zeroes_done);
}

int File::punch_hole_done(Op& op, int result) {
  if (is_unsupported(result)) {
    can_punch_hole_.store(false, std::memory_order_relaxed);
    return zero(op);
  }
  return result < 0 ? result : zeroed(op);
}

void File::prepare_zero_range(const Op& op, io_uring_sqe* sqe) const {
  io_uring_prep_fallocate(sqe, backing_.fd(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(op.offset), op.length);
}

int File::zero_range_done(Op& op, int result) {
  if (is_unsupported(result)) {
    can_zero_range_.store(false, std::memory_order_relaxed);
    return zero(op);
  }
  return result < 0 ? result : zeroed(op);
}

void File::prepare_write_of_zeroes(const Op& op, io_uring_sqe* sqe) const {
  io_uring_prep_write(sqe, backing_.fd(), zeroes, std::min(op.length - op.done, kZeroesSize),
                      op.offset + op.done);
}

int File::write_of_zeroes_done(Op& op, int result) {
  if (result < 0) return result;
  result = whole_blocks(op, result);
  if (result <= 0) return -EIO;
  op.done += static_cast<uint32_t>(result);
  if (op.done == op.length) return zeroed(op);
  return issue(op, &File::prepare_write_of_zeroes, &File::write_of_zeroes_done);
}

int File::zeroed(Op& op) {
  if (!op.fua) return 0;
  return issue(op, &File::prepare_sync, &File::zeroes_synced);
}

int File::zeroes_synced(Op&, int result) {
  if (result < 0) remember_sync_error(result);
  return result;
}

}  // namespace

UBLK_HANDLER(File)
