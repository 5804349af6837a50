// SPDX-License-Identifier: MIT
// Makes the buffers of idle tags inaccessible, so that a server that uses one too late is stopped
// in the act.
#ifndef UBLK_TESTS_FAKE_GUARDED_BUFFERS_H
#define UBLK_TESTS_FAKE_GUARDED_BUFFERS_H

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "disk.h"

namespace fake {

// For copy mode with the library's buffers: those of a handler may be used by it for more. Of the
// buffers of one device, the first kSlots are guarded. Everything but find() is on the loop's
// thread.
class GuardedBuffers {
 public:
  static constexpr size_t kSlots = 4096;

  // From the end of `last`, the request that used it, until the next one.
  void close(size_t slot, uint64_t address, size_t bytes, const Io& last);
  void open(size_t slot);

  struct Found {
    ublk::Operation op;
    uint64_t sector;
    uint32_t sectors;
    size_t offset;  // in the buffer
  };
  // The request that was completed when its buffer was used at `address`. For signal handlers.
  std::optional<Found> find(const void* address) const noexcept;

 private:
  struct Slot {
    std::atomic<uintptr_t> begin{0};  // 0: accessible; the rest is written before
    size_t bytes = 0;
    Io last;
  };
  std::array<Slot, kSlots> slots_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_GUARDED_BUFFERS_H
