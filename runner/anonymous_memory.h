// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_ANONYMOUS_MEMORY_H
#define UBLK_RUNNER_ANONYMOUS_MEMORY_H

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace ublk_runner {

// Zeroed, page-aligned memory. A page costs nothing before it is touched.
class AnonymousMemory {
 public:
  AnonymousMemory() = default;
  // Throws std::bad_alloc.
  explicit AnonymousMemory(size_t size) : size_(size) {
    void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    // A huge page would make the first touch cost as much memory as hundreds of pages.
    madvise(map, size, MADV_NOHUGEPAGE);
    address_ = static_cast<std::byte*>(map);
  }
  AnonymousMemory(AnonymousMemory&& other) noexcept { *this = std::move(other); }
  AnonymousMemory& operator=(AnonymousMemory&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AnonymousMemory() {
    if (address_ != nullptr) munmap(address_, size_);
  }

  std::byte* get() const { return address_; }

 private:
  std::byte* address_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_ANONYMOUS_MEMORY_H
