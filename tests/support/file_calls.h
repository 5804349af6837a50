// SPDX-License-Identifier: MIT
//
// What a handler has the kernel do with a file, in the same words whether it is an SQE or a system
// call that blocks.
#ifndef UBLK_TESTS_SUPPORT_FILE_CALLS_H
#define UBLK_TESTS_SUPPORT_FILE_CALLS_H

#include <liburing.h>

#include <cstdint>
#include <functional>
#include <optional>

namespace test {

struct FileCall {
  unsigned opcode;  // IORING_OP_READ, WRITE, FSYNC, SYNC_FILE_RANGE, FALLOCATE
  uint64_t offset;
  uint64_t length;
  unsigned flags;  // RWF_* or IORING_FSYNC_*; of fallocate: the mode
};

FileCall file_call(const io_uring_sqe& sqe);

// While it lives, each pread, pwritev2, fdatasync, sync_file_range and fallocate of this program,
// libraries included, is shown to `look` on the caller's thread. What `look` returns becomes the
// result, -errno for an error, and the call is not made. Make and destroy it while there are no
// such calls.
class FileCallHook {
 public:
  using Look = std::function<std::optional<int>(const FileCall&)>;
  explicit FileCallHook(Look look);
  ~FileCallHook();
  FileCallHook(const FileCallHook&) = delete;
  FileCallHook& operator=(const FileCallHook&) = delete;
};

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_FILE_CALLS_H
