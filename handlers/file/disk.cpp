// SPDX-License-Identifier: MIT
#include "disk.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <system_error>

#include "file_lock.h"

namespace file {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Kind = Command::Kind;

constexpr uint32_t kMaxDiscard = 1u << 30;
constexpr uint32_t kMaxWriteZeroes = 128u << 20;
constexpr uint32_t kZeroesSize = 256u << 10;
constexpr milliseconds kLockInterval{50};
constexpr milliseconds kFirstRetry{1};
constexpr unsigned kMaxRetries = 10;  // the delay doubles: a second in all

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
constexpr Command kSyncData{.kind = Kind::kSync};

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

Command fallocate_command(const Op& op, int mode) {
  return {.kind = Kind::kFallocate, .flags = mode, .offset = op.offset, .length = op.length};
}

// Found before anything was synced, so no data of others are lost.
bool is_error_of_one_write(int result) {
  return result == -ENOSPC || result == -EDQUOT || result == -EFBIG || result == -EPERM;
}

bool is_unsupported(int result) { return result == -EOPNOTSUPP || result == -ENOSYS; }

}  // namespace

// ------------------------------------------------------- open, size, fence --

Disk::Disk(const ublk::OpenArgs& args)
    : host_(args.host()), device_(args.device()), backing_(backing_options(args)) {
  if (backing_.ignored_tail() > 0)
    host_.log(device_, UBLK_LOG_WARNING,
              "%s: the last %" PRIu64 " bytes are not part of the device: no whole block",
              backing_.path().c_str(), backing_.ignored_tail());
}

void Disk::geometry(ublk_geometry& geometry) const {
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
}

// Tries again and again, since the kernel has no flock with a time limit, and the lock's end sends
// no event that could be waited for.
void Disk::fence(milliseconds timeout) {
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

// ---------------------------------------------------------------- commands --

void Disk::begin(Op& op, const ublk::Io& io) const {
  op.offset = backing_.offset() + io.offset();
  op.length = io.length();
  op.fua = io.fua();
  op.no_unmap = io.no_unmap();
}

int Disk::issue(Op& op, const Command& command, Then then) {
  op.command = command;
  op.delay = {};
  op.then = then;
  op.retries = 0;
  return UBLK_PENDING;
}

// The kernel waits by itself where a read or write would block, so these two errors are rare: a
// filesystem that was interrupted or that lacked something for the moment. The command is run anew
// after a while, and an error that stays is passed on as EIO.
int Disk::go_on(Op& op, int result) {
  if (result == -EINTR || result == -EAGAIN) {
    if (op.retries < kMaxRetries) {
      op.delay = kFirstRetry * (1u << op.retries++);
      return UBLK_PENDING;
    }
    result = -EIO;
  }
  return (this->*op.then)(op, result);
}

// ----------------------------------------------------------- read and write --

int Disk::read(Op& op, const ublk::Io& io) {
  begin(op, io);
  const Command read = {
      .kind = Kind::kRead, .data = io.data(), .offset = op.offset, .length = op.length};
  return issue(op, read, &Disk::read_done);
}

int Disk::read_done(Op& op, int result) {
  if (result != 0) return whole_blocks(op, result);
  // Zeroes would be a lie: there were data once.
  if (!told_of_end_.exchange(true))
    host_.log(device_, UBLK_LOG_ERROR,
              "%s: ends before byte %" PRIu64 ": it has become shorter than the device",
              backing_.path().c_str(), op.offset);
  return -EIO;
}

int Disk::write(Op& op, const ublk::Io& io) {
  begin(op, io);
  const Command write = {.kind = Kind::kWrite,
                         .flags = op.fua ? RWF_DSYNC : 0,
                         .data = io.data(),
                         .offset = op.offset,
                         .length = op.length};
  return issue(op, write, &Disk::write_done);
}

int Disk::write_done(Op& op, int result) {
  return whole_blocks(op, op.fua && !is_error_of_one_write(result) ? synced(result) : result);
}

// O_DIRECT can't go on in the middle of a block, where a short result of its buffered fallback may
// end.
int Disk::whole_blocks(const Op& op, int result) const {
  if (!backing_.direct() || result <= 0 || static_cast<uint32_t>(result) == op.command.length)
    return result;
  const int whole = result - result % static_cast<int>(backing_.limits().logical_block);
  return whole > 0 ? whole : -EIO;
}

// -------------------------------------------------------------------- flush --

int Disk::flush(Op& op, const ublk::Io&) {
  if (const int error = sync_error_.load(std::memory_order_relaxed); error != 0) return error;
  return issue(op, kSyncData, &Disk::flush_done);
}

int Disk::flush_done(Op&, int result) {
  result = synced(result);
  return result < 0 ? result : sync_error_.load(std::memory_order_relaxed);
}

// The result of a sync, or of a write that syncs itself.
int Disk::synced(int result) {
  if (result >= 0 && write_back_)
    if (const int error = write_back_->error(); error != 0) result = error;
  if (result < 0) remember_sync_error(result);
  return result;
}

// The kernel reports a failed write-back and then forgets it, with the data. Whose flush got the
// error is chance (another partition's, maybe), and the next would succeed, though data are lost.
// So all flushes fail from then on, until the device is opened anew.
void Disk::remember_sync_error(int error) {
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
int Disk::discard(Op& op, const ublk::Io& io) {
  begin(op, io);
  if (!backing_.is_block_device())
    return issue(op, fallocate_command(op, kPunchHole), &Disk::discard_done);
  const Command discard = {.kind = Kind::kDiscard, .offset = op.offset, .length = op.length};
  return issue(op, discard, &Disk::discard_done);
}

int Disk::discard_done(Op&, int result) { return result; }

// -------------------------------------------------------------- write zeroes --
//
// By a hole if the space may go, by the filesystem's own zeroing, and by writing zeroes, the first
// that the storage can do. What it can't do is found out at the first try. With FUA a sync follows.

int Disk::write_zeroes(Op& op, const ublk::Io& io) {
  begin(op, io);
  return zero(op);
}

int Disk::zero(Op& op) {
  if (!op.no_unmap && can_punch_hole_.load(std::memory_order_relaxed))
    return issue(op, fallocate_command(op, kPunchHole), &Disk::punch_hole_done);
  if (can_zero_range_.load(std::memory_order_relaxed))
    return issue(op, fallocate_command(op, kZeroRange), &Disk::zero_range_done);
  const Command write = {.kind = Kind::kWrite,
                         .data = zeroes,
                         .offset = op.offset,
                         .length = std::min(op.length, kZeroesSize)};
  return issue(op, write, &Disk::write_of_zeroes_done);
}

int Disk::punch_hole_done(Op& op, int result) { return tried(op, result, can_punch_hole_); }

int Disk::zero_range_done(Op& op, int result) { return tried(op, result, can_zero_range_); }

int Disk::tried(Op& op, int result, std::atomic<bool>& can) {
  if (is_unsupported(result)) {
    can.store(false, std::memory_order_relaxed);
    return zero(op);
  }
  return result < 0 ? result : zeroed(op);
}

int Disk::write_of_zeroes_done(Op& op, int result) {
  if (result < 0) return result;
  result = whole_blocks(op, result);
  if (result <= 0) return -EIO;
  op.offset += static_cast<uint32_t>(result);
  op.length -= static_cast<uint32_t>(result);
  return op.length == 0 ? zeroed(op) : zero(op);
}

int Disk::zeroed(Op& op) { return op.fua ? issue(op, kSyncData, &Disk::zeroes_synced) : 0; }

int Disk::zeroes_synced(Op&, int result) { return synced(result); }

}  // namespace file
