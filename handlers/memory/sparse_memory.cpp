// SPDX-License-Identifier: MIT
#include "sparse_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

namespace memory {
namespace {

constexpr uint64_t kPageSize = SparseMemory::kPageSize;
constexpr uint64_t kPagesPerWord = 64;

uint64_t whole_pages(uint64_t bytes) { return (bytes + kPageSize - 1) / kPageSize * kPageSize; }

uint64_t bitmap_bytes(uint64_t bytes) {
  const uint64_t pages = (bytes + kPageSize - 1) / kPageSize;
  return (pages + kPagesPerWord - 1) / kPagesPerWord * sizeof(uint64_t);
}

// Addresses whose pages come at the first touch. Neither a forked child nor a core file gets them.
// `fd` -1: anonymous memory.
void* map_zeroes(uint64_t bytes, int fd = -1, uint64_t offset = 0) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind | MAP_NORESERVE, fd,
                      static_cast<off_t>(offset));
  if (memory == MAP_FAILED)
    throw std::system_error(errno, std::generic_category(),
                            "cannot reserve " + std::to_string(bytes) + " bytes of addresses");
  // Advice that fails costs no more than memory. No huge pages: one small write would take 2 MiB,
  // and a small discard could not give them back.
  madvise(memory, bytes, MADV_DONTFORK);
  madvise(memory, bytes, MADV_DONTDUMP);
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  return memory;
}

// Calls piece(page, offset, length) for the part of the range in each page.
template <class Piece>
void for_each_page(uint64_t offset, uint64_t length, Piece piece) {
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t n = std::min(end - offset, kPageSize - offset % kPageSize);
    piece(offset / kPageSize, offset, n);
    offset += n;
  }
}

}  // namespace

SparseMemory::SparseMemory(uint64_t bytes)
    : size_(bytes), data_(static_cast<std::byte*>(map_zeroes(bytes))), present_(nullptr) {
  try {
    present_ = static_cast<uint64_t*>(map_zeroes(bitmap_bytes(bytes)));
  } catch (...) {
    munmap(data_, size_);
    throw;
  }
}

// The bitmap, then the data.
SparseMemory::SparseMemory(uint64_t bytes, const SharedSegment& segment)
    : size_(bytes),
      segment_(&segment),
      data_offset_(whole_pages(bitmap_bytes(bytes))),
      data_(nullptr),
      present_(nullptr) {
  segment.set_size(data_offset_ + whole_pages(bytes));
  present_ = static_cast<uint64_t*>(map_zeroes(bitmap_bytes(bytes), segment.fd()));
  try {
    data_ = static_cast<std::byte*>(map_zeroes(bytes, segment.fd(), data_offset_));
  } catch (...) {
    munmap(present_, bitmap_bytes(bytes));
    throw;
  }
  drop_absent_pages();
}

SparseMemory::~SparseMemory() {
  munmap(present_, bitmap_bytes(size_));
  munmap(data_, size_);
}

// The bit's order: a writer stores the data first and sets the bit then, a discard clears the bit
// first and drops the page then. So in whatever way the two meet, no page is left with data and
// without its bit, whose data would come back with the next write to another block of the page.
bool SparseMemory::has(uint64_t page) const {
  const std::atomic_ref<uint64_t> word(present_[page / kPagesPerWord]);
  return word.load(std::memory_order_acquire) >> (page % kPagesPerWord) & 1;
}

void SparseMemory::set(uint64_t page) {
  if (has(page)) return;
  const std::atomic_ref<uint64_t> word(present_[page / kPagesPerWord]);
  word.fetch_or(uint64_t{1} << (page % kPagesPerWord), std::memory_order_release);
}

// Clears the bits of pages first .. last - 1; true if one was set.
bool SparseMemory::clear(uint64_t first, uint64_t last) {
  uint64_t found = 0;
  while (first < last) {
    const uint64_t bit = first % kPagesPerWord;
    const uint64_t count = std::min(last - first, kPagesPerWord - bit);
    const uint64_t mask = (~uint64_t{0} >> (kPagesPerWord - count)) << bit;
    const std::atomic_ref<uint64_t> word(present_[first / kPagesPerWord]);
    if (word.load(std::memory_order_relaxed) & mask)
      found |= word.fetch_and(~mask, std::memory_order_acq_rel) & mask;
    first += count;
  }
  return found != 0;
}

void SparseMemory::read(uint64_t offset, std::byte* to, uint64_t length) const {
  for_each_page(offset, length, [&](uint64_t page, uint64_t at, uint64_t n) {
    if (has(page))
      std::memcpy(to + (at - offset), data_ + at, n);
    else
      std::memset(to + (at - offset), 0, n);
  });
}

void SparseMemory::write(uint64_t offset, const std::byte* from, uint64_t length) {
  for_each_page(offset, length, [&](uint64_t page, uint64_t at, uint64_t n) {
    std::memcpy(data_ + at, from + (at - offset), n);
    set(page);
  });
}

void SparseMemory::fill_zeroes(uint64_t offset, uint64_t length) {
  for_each_page(offset, length, [&](uint64_t page, uint64_t at, uint64_t n) {
    std::memset(data_ + at, 0, n);
    set(page);
  });
}

void SparseMemory::zero_present(uint64_t offset, uint64_t length) {
  for_each_page(offset, length, [&](uint64_t page, uint64_t at, uint64_t n) {
    if (has(page)) std::memset(data_ + at, 0, n);
  });
}

void SparseMemory::discard(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t first = (offset + kPageSize - 1) / kPageSize * kPageSize;
  const uint64_t last = end / kPageSize * kPageSize;
  if (first >= last) return zero_present(offset, length);
  zero_present(offset, first - offset);
  zero_present(last, end - last);
  if (!clear(first / kPageSize, last / kPageSize)) return;
  drop_pages(first, last - first);
}

void SparseMemory::drop_pages(uint64_t first, uint64_t bytes) {
  if (segment_ != nullptr) {
    // Not MADV_REMOVE, which locked memory refuses.
    if (fallocate(segment_->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(data_offset_ + first), static_cast<off_t>(bytes)) != 0)
      std::memset(data_ + first, 0, bytes);
    return;
  }
  // The first works for locked memory too, which the second refuses.
  if (madvise(data_ + first, bytes, MADV_DONTNEED_LOCKED) != 0 &&
      madvise(data_ + first, bytes, MADV_DONTNEED) != 0)
    std::memset(data_ + first, 0, bytes);
}

// A process that was killed may have left data in pages whose bit it had not set yet, or had
// cleared already. They would come back with the next write to another block of the page. Only
// pages that are there are looked at and dropped: they are few, and each drop makes the other CPUs
// wait, so that dropping every hole takes a second where the disk was written at random.
void SparseMemory::drop_absent_pages() {
  SharedSegment::Extent extent{data_offset_, data_offset_};
  while ((extent = segment_->next_data(extent.end)).begin < extent.end) {
    const uint64_t last = whole_pages(extent.end - data_offset_) / kPageSize;
    for (uint64_t page = (extent.begin - data_offset_) / kPageSize; page < last; ++page) {
      const uint64_t first = page;
      while (page < last && !has(page)) ++page;
      if (page != first) drop_pages(first * kPageSize, (page - first) * kPageSize);
    }
  }
}

uint64_t SparseMemory::missing_pages(uint64_t offset, uint64_t length) const {
  uint64_t missing = 0;
  for_each_page(offset, length, [&](uint64_t page, uint64_t, uint64_t) { missing += !has(page); });
  return missing;
}

}  // namespace memory
