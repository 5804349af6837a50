// SPDX-License-Identifier: MIT
//
// What a coroutine can ask of the kernel by its ublk::Io, each in two forms that give the same
// result, that of the system call or -errno:
//
//   prepare(sqe)    fills in an SQE of zeroes, but for its user_data
//   result(res)     makes the CQE's result that of the call; absent: it is
//   call(stop_fd)   blocks, at most until stop_fd is readable where it could be for ever
//
// Authors use the functions of <ublk/io.h>.
#ifndef UBLK_IO_CALLS_H
#define UBLK_IO_CALLS_H

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <utility>

namespace ublk::internal {

inline int result_of(int64_t returned) {
  return returned < 0 ? -errno : static_cast<int>(returned);
}

struct Read {
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = buffer_index < 0 ? IORING_OP_READ : IORING_OP_READ_FIXED;
    sqe.fd = fd;
    sqe.addr = reinterpret_cast<uintptr_t>(to);
    sqe.len = length;
    sqe.off = offset;
    sqe.buf_index = buffer_index < 0 ? uint16_t{0} : static_cast<uint16_t>(buffer_index);
  }
  int call(int) const { return result_of(pread(fd, to, length, static_cast<off_t>(offset))); }

  int fd;
  int buffer_index;  // of the ring's registered buffer that `to` is an offset in; -1: none
  void* to;
  uint64_t offset;
  uint32_t length;
};

struct Write {
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = buffer_index < 0 ? IORING_OP_WRITE : IORING_OP_WRITE_FIXED;
    sqe.fd = fd;
    sqe.addr = reinterpret_cast<uintptr_t>(from);
    sqe.len = length;
    sqe.off = offset;
    sqe.rw_flags = flags;
    sqe.buf_index = buffer_index < 0 ? uint16_t{0} : static_cast<uint16_t>(buffer_index);
  }
  int call(int) const {
    const iovec data = {.iov_base = const_cast<void*>(from), .iov_len = length};
    return result_of(pwritev2(fd, &data, 1, static_cast<off_t>(offset), flags));
  }

  int fd;
  int buffer_index;  // as of Read
  const void* from;
  uint64_t offset;
  uint32_t length;
  int flags;  // RWF_*
};

struct Sync {
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = IORING_OP_FSYNC;
    sqe.fd = fd;
    sqe.fsync_flags = data_only ? IORING_FSYNC_DATASYNC : 0;
  }
  int call(int) const { return result_of(data_only ? fdatasync(fd) : fsync(fd)); }

  int fd;
  bool data_only;
};

struct Fallocate {
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = IORING_OP_FALLOCATE;
    sqe.fd = fd;
    sqe.len = static_cast<uint32_t>(mode);
    sqe.off = offset;
    sqe.addr = length;
  }
  int call(int) const {
    return result_of(fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
  }

  int fd;
  int mode;
  uint64_t offset;
  uint64_t length;
};

struct Discard {
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = IORING_OP_URING_CMD;
    sqe.fd = fd;
    sqe.cmd_op = _IO(0x12, 0);  // BLOCK_URING_CMD_DISCARD
    sqe.addr = offset;
    sqe.addr3 = length;
  }
  int call(int) const {
    uint64_t range[] = {offset, length};
    return result_of(ioctl(fd, BLKDISCARD, range));
  }

  int fd;
  uint64_t offset;
  uint64_t length;
};

struct Poll {
  void prepare(io_uring_sqe& sqe) const {
    const auto wanted = static_cast<uint32_t>(static_cast<unsigned short>(events));
    sqe.opcode = IORING_OP_POLL_ADD;
    sqe.fd = fd;
    sqe.poll32_events = std::endian::native == std::endian::big ? wanted << 16 : wanted;
  }
  int call(int stop_fd) const {
    if (fd < 0) return -EBADF;  // poll(2) would ignore it
    pollfd fds[] = {{fd, events, 0}, {stop_fd, POLLIN, 0}};
    if (::poll(fds, std::size(fds), -1) < 0) return -errno;
    if (fds[0].revents == 0) return -ECANCELED;
    return (fds[0].revents & POLLNVAL) != 0 ? -EBADF : fds[0].revents;
  }

  int fd;
  short events;
};

struct Sleep {
  explicit Sleep(std::chrono::nanoseconds duration) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(duration);
    if (duration.count() > 0)
      time = {.tv_sec = seconds.count(), .tv_nsec = (duration - seconds).count()};
  }
  void prepare(io_uring_sqe& sqe) const {
    sqe.opcode = IORING_OP_TIMEOUT;
    sqe.fd = -1;
    sqe.addr = reinterpret_cast<uintptr_t>(&time);
    sqe.len = 1;
  }
  static int result(int result) { return result == -ETIME ? 0 : result; }
  int call(int stop_fd) const {
    pollfd stop = {stop_fd, POLLIN, 0};
    const timespec timeout = {.tv_sec = time.tv_sec, .tv_nsec = static_cast<long>(time.tv_nsec)};
    const int n = ppoll(&stop, 1, &timeout, nullptr);
    if (n > 0) return -ECANCELED;
    return n < 0 ? -errno : 0;
  }

  __kernel_timespec time{};
};

struct Nop {
  static void prepare(io_uring_sqe& sqe) { sqe.opcode = IORING_OP_NOP; }
  static int call(int) { return 0; }
};

// An author's own.
template <class Prepare>
struct OwnSqe {
  void prepare(io_uring_sqe& sqe) { fill_in(sqe); }
  static int call(int) { return -EOPNOTSUPP; }

  Prepare fill_in;
};

}  // namespace ublk::internal

#endif  // UBLK_IO_CALLS_H
