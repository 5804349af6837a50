// SPDX-License-Identifier: MIT
#include "workers.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <thread>

namespace file {
namespace {

ssize_t call(int fd, const Command& command) {
  const auto offset = static_cast<off_t>(command.offset);
  switch (command.kind) {
    case Command::Kind::kRead:
      return pread(fd, command.data, command.length, offset);
    case Command::Kind::kWrite: {
      const iovec data = {.iov_base = command.data, .iov_len = command.length};
      return pwritev2(fd, &data, 1, offset, command.flags);
    }
    case Command::Kind::kSync:
      return fdatasync(fd);
    case Command::Kind::kFallocate:
      return fallocate(fd, command.flags, offset, command.length);
    case Command::Kind::kDiscard: {
      uint64_t range[] = {command.offset, command.length};
      return ioctl(fd, BLKDISCARD, range);
    }
  }
  __builtin_unreachable();
}

int run(int fd, const Command& command) {
  const ssize_t result = call(fd, command);
  return result < 0 ? -errno : static_cast<int>(result);
}

}  // namespace

int serve_on_worker(Disk& disk, const ublk::Io& io, Disk::Begin begin) {
  Op op;
  int result = (disk.*begin)(op, io);
  while (result == UBLK_PENDING) {
    if (op.delay.count() > 0) std::this_thread::sleep_for(op.delay);
    result = disk.go_on(op, run(disk.fd(), op.command));
  }
  return result;
}

}  // namespace file
