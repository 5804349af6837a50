// SPDX-License-Identifier: MIT
//
// One I/O request in the server's hands, and what becomes of it.
#ifndef UBLK_REQUEST_H
#define UBLK_REQUEST_H

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "ublk/abi.h"
#include "ublk/export.h"

namespace ublk {

class Queue;
class CompletionBatch;

namespace internal {

struct alignas(64) Slot;  // a tag's place in the server

}  // namespace internal

enum class Operation : uint8_t {
  kRead = 0,
  kWrite = 1,
  kFlush = 2,
  kDiscard = 3,
  kWriteZeroes = 5,
  kZoneOpen = 10,
  kZoneClose = 11,
  kZoneFinish = 12,
  kZoneAppend = 13,
  kZoneResetAll = 14,
  kZoneReset = 15,
  kReportZones = 18,
};

// Owns one request, and with it the tag and buffer, until it is completed. Move-only; the last
// owner's destructor completes it with -EIO, so no request can be lost by an early return.
//
// One thread at a time uses a Request; it may be moved to any other. complete() may be called from
// any thread. On the ring's thread it places the commit command in the ring at once; elsewhere the
// request goes into the ring's lock-free list and the ring's thread is woken if it may be asleep,
// or, with a CompletionBatch and kFlagBatchIo, is committed by that.
class UBLK_EXPORT Request {
 public:
  Request() = default;  // owns nothing
  Request(Request&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
  Request& operator=(Request&& other) noexcept {
    if (this != &other) {
      drop();
      slot_ = std::exchange(other.slot_, nullptr);
    }
    return *this;
  }
  ~Request() { drop(); }

  explicit operator bool() const { return slot_ != nullptr; }

  Operation op() const;
  uint64_t sector() const;    // first sector (of 512 bytes); meaningless for a flush
  uint32_t sectors() const;   // 0 for a flush
  uint64_t offset() const;    // bytes
  uint32_t length() const;    // bytes; UINT32_MAX at most
  uint32_t op_flags() const;  // the kernel's, abi::kIoFlag*
  bool fua() const { return op_flags() & abi::kIoFlagFua; }
  bool no_unmap() const { return op_flags() & abi::kIoFlagNoUnmap; }
  uint16_t tag() const;
  Queue& queue() const;
  // Data of a read (to be filled) or a write: length() bytes. nullptr for other operations, and
  // until set_buffer() for a read in get-data mode and for both in user-copy mode.
  std::byte* buffer() const;

  // Get-data mode, a read: where its data will be when it is completed with success. The memory
  // is the backend's and must stay as it is until Backend::buffer_done(). In user-copy mode the
  // library only keeps the address, so that buffer_done() gives it back on the ring's thread
  // whoever has completed the request.
  void set_buffer(std::byte* buffer);
  // Get-data mode, the answer to Backend::need_buffer(): where to put length() bytes of a write.
  // The handle is empty afterwards; the request comes back by Backend::submit() with its data. The
  // memory is the backend's until Backend::buffer_done(). False as with complete().
  bool provide_buffer(std::byte* buffer);
  static bool provide_buffer(uint64_t id, std::byte* buffer);

  // Zero copy: the slot of the ring's buffer table that holds the data of this read or write until
  // it is completed, for IORING_OP_READ_FIXED (into a read's data) or WRITE_FIXED (from a write's)
  // on the queue's ring; the address in the SQE is the offset within the request. -1: the data is
  // not registered, and is moved as in user-copy mode.
  int buffer_index() const;

  // User-copy mode: moves `length` bytes at `offset` within the request from a write's data to
  // `to`, or from `from` to a read's data. Any thread, any number of times, any part, until the
  // request is completed. Returns the bytes moved, none beyond the request's end, or -errno
  // (EACCES: the wrong way for this operation; EINVAL: `offset` is past the end). To do it on a
  // ring instead: Queue::prepare_copy().
  ssize_t read_data(void* to, size_t length, uint32_t offset) const;
  ssize_t write_data(const void* from, size_t length, uint32_t offset) const;

  // Ends the request. `result`: the bytes done for a read or write, which must be all of length()
  // (fewer, or more, fail the request with -EIO, since the kernel's own answer to a short result
  // differs by version); 0 or more for other operations; or -errno. The handle is empty afterwards.
  // False, and nothing is done, on an empty handle, or if somebody has completed the request by its
  // id() already. With `batch` the kernel may learn of it only when that is flushed, see
  // ublk/completion_batch.h.
  bool complete(int result, CompletionBatch* batch = nullptr);

  // For interfaces that can't carry a C++ object: the id stands for this request in the static
  // complete(), from any thread. Never 0. Who completes by id must first release() the handle, or
  // it fails the request when it is dropped.
  uint64_t id() const;
  uint64_t release() {
    const uint64_t released = id();
    slot_ = nullptr;
    return released;
  }
  // False if that request is not in the server's hands any more, because it was completed before;
  // nothing has changed then. A stale id is told from the tag's next requests by a generation of 16
  // bits. The Ring that the request came from must still exist.
  static bool complete(uint64_t id, int result, CompletionBatch* batch = nullptr);

 private:
  friend class Queue;
  explicit Request(internal::Slot* slot) : slot_(slot) {}
  void drop() {
    if (slot_ != nullptr) complete(-EIO);
  }

  internal::Slot* slot_ = nullptr;
};

}  // namespace ublk

#endif  // UBLK_REQUEST_H
