// SPDX-License-Identifier: MIT
//
// The disk in the file: what it is like, and what each request asks of the kernel. A request is one
// command after another, the next following from the result of the last. Who has them run, the ring
// (ring.h) or a worker thread (workers.h), is not known here. All functions for requests may be
// called by many threads at once, with an Op each.
#ifndef UBLK_HANDLERS_FILE_DISK_H
#define UBLK_HANDLERS_FILE_DISK_H

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ublk/handler.hpp>

#include "backing.h"
#include "write_back_watch.h"

namespace file {

class Disk;

// What the kernel is to do with the file. Its result is that of the SQE: 0, a number of bytes, or
// -errno.
struct Command {
  enum class Kind : uint8_t {
    kRead,
    kWrite,
    kSync,  // of all data
    kFallocate,
    kDiscard,  // of a block device
  };
  Kind kind;
  int flags = 0;              // kWrite: RWF_*; kFallocate: FALLOC_FL_*
  std::byte* data = nullptr;  // kRead: to; kWrite: from
  uint64_t offset = 0;        // in the file
  uint32_t length = 0;
};

// A request on its way.
struct Op {
  Command command;
  std::chrono::nanoseconds delay;         // before the command is run
  int (Disk::*then)(Op& op, int result);  // takes the command's result
  unsigned retries;                       // of the command

  uint64_t offset;  // in the file, of what is not done
  uint32_t length;
  bool fua;
  bool no_unmap;
};

class Disk {
 public:
  // How a request begins.
  using Begin = int (Disk::*)(Op& op, const ublk::Io& io);

  explicit Disk(const ublk::OpenArgs& args);

  void geometry(ublk_geometry& geometry) const;
  void fence(std::chrono::milliseconds timeout);
  int fd() const { return backing_.fd(); }
  bool is_block_device() const { return backing_.is_block_device(); }
  const Limits& limits() const { return backing_.limits(); }
  bool direct() const { return backing_.direct(); }
  const ublk_host& host() const { return host_; }

  // Each returns the request's result, or UBLK_PENDING: then op.command is to be run after op.delay
  // and go_on is given its result.
  int read(Op& op, const ublk::Io& io);
  int write(Op& op, const ublk::Io& io);
  int flush(Op& op, const ublk::Io& io);
  int discard(Op& op, const ublk::Io& io);
  int write_zeroes(Op& op, const ublk::Io& io);
  int go_on(Op& op, int result);

 private:
  using Then = decltype(Op::then);

  void begin(Op& op, const ublk::Io& io) const;
  static int issue(Op& op, const Command& command, Then then);

  int read_done(Op& op, int result);
  int write_done(Op& op, int result);
  int flush_done(Op& op, int result);
  int discard_done(Op& op, int result);

  int zero(Op& op);
  int punch_hole_done(Op& op, int result);
  int zero_range_done(Op& op, int result);
  int tried(Op& op, int result, std::atomic<bool>& can);
  int write_of_zeroes_done(Op& op, int result);
  int zeroed(Op& op);
  int zeroes_synced(Op& op, int result);

  int whole_blocks(const Op& op, int result) const;
  int synced(int result);
  void remember_sync_error(int error);

  const ublk_host& host_;
  ublk_device* const device_;
  Backing backing_;
  std::optional<WriteBackWatch> write_back_;  // once the file may be written to
  std::atomic<bool> can_punch_hole_{true};
  std::atomic<bool> can_zero_range_{true};
  std::atomic<bool> told_of_end_{false};
  std::atomic<int> sync_error_{0};
};

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_DISK_H
