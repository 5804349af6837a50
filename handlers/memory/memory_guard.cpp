// SPDX-License-Identifier: MIT
#include "memory_guard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace memory {
namespace {

// Bytes that can be had without swapping, by the kernel's own estimate.
uint64_t available_memory(int meminfo) {
  std::array<char, 512> text;  // the line is the third
  const ssize_t n = pread(meminfo, text.data(), text.size() - 1, 0);
  if (n <= 0) return std::numeric_limits<uint64_t>::max();
  text[n] = '\0';
  constexpr const char* kKey = "MemAvailable:";
  const char* line = std::strstr(text.data(), kKey);
  if (line == nullptr) return std::numeric_limits<uint64_t>::max();
  return std::strtoull(line + std::strlen(kKey), nullptr, 10) * 1024;
}

}  // namespace

MemoryGuard::MemoryGuard(uint64_t keep_free)
    : keep_free_(keep_free),
      meminfo_(keep_free == 0 ? -1 : open("/proc/meminfo", O_RDONLY | O_CLOEXEC)) {}

MemoryGuard::~MemoryGuard() {
  if (meminfo_ >= 0) close(meminfo_);
}

bool MemoryGuard::may_take(uint64_t bytes) {
  if (bytes == 0 || meminfo_ < 0) return true;
  const int64_t wanted = static_cast<int64_t>(bytes);
  if (credit_.fetch_sub(wanted, std::memory_order_relaxed) >= wanted) return true;
  const uint64_t available = available_memory(meminfo_);
  const bool enough = available > keep_free_ && available - keep_free_ >= bytes;
  credit_.store(enough ? kStep : 0, std::memory_order_relaxed);
  return enough;
}

}  // namespace memory
