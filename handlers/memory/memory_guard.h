// SPDX-License-Identifier: MIT
//
// Says no before the kernel's OOM killer does.
#ifndef UBLK_HANDLERS_MEMORY_MEMORY_GUARD_H
#define UBLK_HANDLERS_MEMORY_MEMORY_GUARD_H

#include <atomic>
#include <cstdint>

namespace memory {

// Decides whether a disk may take more memory. A page that is touched can't be refused by the
// kernel: when there is none left, it kills a process, most likely the runner with all its devices.
// So the disk asks here first, and fails the one write instead.
//
// The system's figure is read again each time that kStep bytes have been taken: memory can fall
// below the limit by that much for each disk that grows at the time. Any thread.
class MemoryGuard {
 public:
  static constexpr int64_t kStep = int64_t{4} << 20;

  // Leaves `keep_free` bytes of MemAvailable to the rest of the system; 0: takes what there is.
  explicit MemoryGuard(uint64_t keep_free);
  ~MemoryGuard();
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;

  bool may_take(uint64_t bytes);

 private:
  const uint64_t keep_free_;
  const int meminfo_;               // /proc/meminfo, or -1: there is none, and nothing is refused
  std::atomic<int64_t> credit_{0};  // bytes that may be taken without another look
};

}  // namespace memory

#endif  // UBLK_HANDLERS_MEMORY_MEMORY_GUARD_H
