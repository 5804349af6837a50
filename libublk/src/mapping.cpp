// SPDX-License-Identifier: MIT
#include "mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "ublk/error.h"

namespace ublk::internal {

#ifdef MADV_DONTNEED_LOCKED
constexpr int kDontNeedLocked = MADV_DONTNEED_LOCKED;
#else
constexpr int kDontNeedLocked = 24;  // Linux 5.18
#endif

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t round_up_to_page(size_t bytes) { return (bytes + page_size() - 1) & ~(page_size() - 1); }

Mapping::Mapping(size_t bytes) : size_(round_up_to_page(bytes)) {
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    throw Error(error,
                "mmap of " + std::to_string(size_) + " bytes of address space for I/O buffers");
  }
  madvise(memory, size_, MADV_NOHUGEPAGE);  // a kernel without huge pages refuses; that is as well
  data_ = static_cast<std::byte*>(memory);
}

Mapping::~Mapping() { munmap(data_, size_); }

bool Mapping::discard(size_t offset, size_t bytes) const {
  if (madvise(data_ + offset, bytes, MADV_DONTNEED) == 0) return true;
  // The process has locked its memory.
  return errno == EINVAL && madvise(data_ + offset, bytes, kDontNeedLocked) == 0;
}

}  // namespace ublk::internal
