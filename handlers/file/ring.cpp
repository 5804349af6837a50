// SPDX-License-Identifier: MIT
#include "ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <sys/utsname.h>

#include <cstdio>

namespace file {
namespace {

constexpr uint32_t kBlockDiscard = _IO(0x12, 0);  // BLOCK_URING_CMD_DISCARD

// `buffer_index`: of registered memory, in which command.data is an offset; or -1.
void prepare(io_uring_sqe* sqe, int fd, const Command& command, int buffer_index) {
  switch (command.kind) {
    case Command::Kind::kRead:
      io_uring_prep_read(sqe, fd, command.data, command.length, command.offset);
      if (buffer_index < 0) return;
      sqe->opcode = IORING_OP_READ_FIXED;
      sqe->buf_index = static_cast<uint16_t>(buffer_index);
      return;
    case Command::Kind::kWrite:
      io_uring_prep_write(sqe, fd, command.data, command.length, command.offset);
      sqe->rw_flags = command.flags;
      if (buffer_index < 0) return;
      sqe->opcode = IORING_OP_WRITE_FIXED;
      sqe->buf_index = static_cast<uint16_t>(buffer_index);
      return;
    case Command::Kind::kSync:
      io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
      return;
    case Command::Kind::kFallocate:
      io_uring_prep_fallocate(sqe, fd, command.flags, static_cast<off_t>(command.offset),
                              command.length);
      return;
    case Command::Kind::kDiscard:
      io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, nullptr, 0, 0);
      sqe->cmd_op = kBlockDiscard;
      sqe->addr = command.offset;
      sqe->addr3 = command.length;
      return;
  }
}

void put_on_ring(RingOp& op) {
  io_uring_sqe* sqe = op.disk->host().get_sqe(op.queue);
  prepare(sqe, op.disk->fd(), op.command, op.buffer_index);
  io_uring_sqe_set_data64(sqe, ublk_event_user_data(&op));
}

void on_timer(ublk_timer* timer) { put_on_ring(*static_cast<RingOp*>(timer)); }

void on_event(ublk_event* event, int32_t result, uint32_t) {
  RingOp& op = *static_cast<RingOp*>(event);
  const ublk_host& host = op.disk->host();
  result = op.disk->go_on(op, result);
  if (result != UBLK_PENDING)
    host.complete(op.id, result);
  else if (op.delay.count() > 0)
    host.set_timer(op.queue, &op, static_cast<uint64_t>(op.delay.count()));
  else
    put_on_ring(op);
}

}  // namespace

bool ring_discards_block_devices() {
  utsname system;
  int major = 0;
  int minor = 0;
  if (uname(&system) != 0 || std::sscanf(system.release, "%d.%d", &major, &minor) != 2)
    return false;
  return major > 6 || (major == 6 && minor >= 12);
}

int serve_on_ring(Disk& disk, const ublk::Io& io, Disk::Begin begin) {
  RingOp& op = io.scratch<RingOp>();
  op.handle = on_event;
  op.fired = on_timer;
  op.disk = &disk;
  op.queue = io.queue();
  op.id = io.id();
  op.buffer_index = io.buffer_index();
  const int result = (disk.*begin)(op, io);
  if (result == UBLK_PENDING) put_on_ring(op);
  return result;
}

}  // namespace file
