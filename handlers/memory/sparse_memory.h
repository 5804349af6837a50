// SPDX-License-Identifier: MIT
//
// The memory of a RAM disk: takes a page when it is written, gives it back when it is discarded.
#ifndef UBLK_HANDLERS_MEMORY_SPARSE_MEMORY_H
#define UBLK_HANDLERS_MEMORY_SPARSE_MEMORY_H

#include <cstddef>
#include <cstdint>

#include "shared_segment.h"

namespace memory {

// A range of zeroed bytes, of which only written pages cost memory. Offsets and lengths are in
// bytes and lie inside the range.
//
// Any number of threads may call any function at once. Where calls overlap, each byte is that of
// one of them, and a page that was discarded last is zero.
class SparseMemory {
 public:
  static constexpr uint64_t kPageSize = 4096;

  // Reserves the addresses, takes no memory yet. Throws std::system_error.
  explicit SparseMemory(uint64_t bytes);
  // The same in shared memory that outlives the process: with what a process before this one has
  // left in it, if any. `segment` must stay. Throws std::system_error.
  SparseMemory(uint64_t bytes, const SharedSegment& segment);
  ~SparseMemory();
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;

  // Takes no memory, wherever it reads.
  void read(uint64_t offset, std::byte* to, uint64_t length) const;
  void write(uint64_t offset, const std::byte* from, uint64_t length);
  // Zeroes in place: all pages of the range cost memory afterwards.
  void fill_zeroes(uint64_t offset, uint64_t length);
  // Zeroes the range and frees the pages that lie wholly inside it.
  void discard(uint64_t offset, uint64_t length);

  // How many pages of the range a write would have to take.
  uint64_t missing_pages(uint64_t offset, uint64_t length) const;

 private:
  bool has(uint64_t page) const;
  void set(uint64_t page);
  bool clear(uint64_t first, uint64_t last);
  void zero_present(uint64_t offset, uint64_t length);

  void drop_pages(uint64_t first, uint64_t bytes);
  void drop_absent_pages();

  const uint64_t size_;
  const SharedSegment* const segment_ = nullptr;  // nullptr: the memory is this process's
  const uint64_t data_offset_ = 0;                // in the segment
  std::byte* data_;
  // One bit a page: it was written since it was last discarded. Without its bit a page is zero, and
  // a read need not touch it: even a page read in vain would cost a page table entry for ever.
  uint64_t* present_;
};

}  // namespace memory

#endif  // UBLK_HANDLERS_MEMORY_SPARSE_MEMORY_H
