// SPDX-License-Identifier: MIT
#include "perform.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace file {

namespace {

int result_of(ssize_t result) { return result < 0 ? -errno : static_cast<int>(result); }

iovec memory_of(const io_uring_sqe& sqe) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel's way to hold an address
  return {.iov_base = reinterpret_cast<void*>(sqe.addr), .iov_len = sqe.len};
}

}  // namespace

int perform(const io_uring_sqe& sqe) {
  const auto offset = static_cast<off_t>(sqe.off);
  const iovec memory = memory_of(sqe);
  switch (sqe.opcode) {
    case IORING_OP_READ:
      return result_of(preadv2(sqe.fd, &memory, 1, offset, static_cast<int>(sqe.rw_flags)));
    case IORING_OP_WRITE:
      return result_of(pwritev2(sqe.fd, &memory, 1, offset, static_cast<int>(sqe.rw_flags)));
    case IORING_OP_FSYNC:
      return result_of((sqe.fsync_flags & IORING_FSYNC_DATASYNC) != 0 ? fdatasync(sqe.fd)
                                                                      : fsync(sqe.fd));
    case IORING_OP_FALLOCATE:
      return result_of(
          fallocate(sqe.fd, static_cast<int>(sqe.len), offset, static_cast<off_t>(sqe.addr)));
    case IORING_OP_URING_CMD: {
      uint64_t range[2] = {sqe.addr, sqe.addr3};
      return result_of(ioctl(sqe.fd, BLKDISCARD, range));
    }
    default:
      return -EINVAL;
  }
}

}  // namespace file
