// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_ANONYMOUS_MEMORY_H
#define UBLK_RUNNER_ANONYMOUS_MEMORY_H

#include <sys/mman.h>
#include <ublk/error.h>

#include <cerrno>
#include <cstddef>
#include <new>
#include <string>
#include <utility>

namespace ublk_runner {

// std::bad_alloc that says of what.
class MappingError : public std::bad_alloc {
 public:
  MappingError(size_t bytes, int error)
      : error_(error, "mmap of " + std::to_string(bytes) + " bytes") {}
  const char* what() const noexcept override { return error_.what(); }

 private:
  ublk::Error error_;
};

// Zeroed, page-aligned memory. A page costs nothing before it is touched.
class AnonymousMemory {
 public:
  AnonymousMemory() = default;
  // Throws MappingError.
  explicit AnonymousMemory(size_t size) : size_(size) {
    void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw MappingError(size, errno);
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
