// SPDX-License-Identifier: MIT
//
// Blocks of 2^order pages out of one mapping, by the buddy system: a free block merges with its
// buddy at once, so that whatever is freed can be had again in any size. Takes the smallest block
// that fits, and of these the one with the lowest address, which keeps large blocks whole and what
// is touched together. All that it knows is kept in bitmaps beside the memory (two bytes a page);
// it never touches the memory itself.
//
// It also knows which pages may be resident: those of a block are taken for touched when it is
// handed out, until they are discarded.
//
// Threads: the caller's lock guards everything but contains(), order_for(), bytes_of() and
// order_of().
#ifndef UBLK_SRC_BUDDY_ALLOCATOR_H
#define UBLK_SRC_BUDDY_ALLOCATOR_H

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "mapping.h"

namespace ublk::internal {

// A set of block numbers that finds its smallest member fast.
class BlockSet {
 public:
  explicit BlockSet(size_t size) : words_(size / 64 + 1), used_words_(words_.size() / 64 + 1) {}

  bool empty() const { return count_ == 0; }
  bool contains(size_t block) const { return words_[block / 64] >> (block % 64) & 1; }
  void insert(size_t block);
  void erase(size_t block);
  size_t smallest() const;  // not of an empty set

 private:
  std::vector<uint64_t> words_;
  std::vector<uint64_t> used_words_;  // a bit for each word that isn't 0
  size_t count_ = 0;
};

class BuddyAllocator {
 public:
  static constexpr size_t kMaxBlock = size_t{32} << 20;

  // Manages `bytes` (at least a page; whole pages) of address space. Throws Error.
  explicit BuddyAllocator(size_t bytes);

  bool contains(const std::byte* memory) const {
    return static_cast<size_t>(memory - memory_.data()) < memory_.size();
  }
  // The smallest order that holds `bytes`, 1 .. kMaxBlock.
  unsigned order_for(size_t bytes) const {
    return static_cast<unsigned>(std::bit_width((bytes - 1) >> page_shift_));
  }
  size_t bytes_of(unsigned order) const { return size_t{1} << (order + page_shift_); }
  // Of an allocated block. For who holds the block, or the lock.
  unsigned order_of(const std::byte* block) const { return orders_[page_of(block)]; }

  // nullptr if no block of that order, or larger, is free.
  std::byte* allocate(unsigned order);
  void free(const std::byte* block);

  // Bytes of pages that may be resident, allocated ones and free ones.
  size_t touched() const { return touched_pages_ << page_shift_; }

  // Gives free touched pages back to the system, until at least `bytes` of them are gone. `words`
  // says where to begin, going down, and where it has stopped: a caller who doesn't want to hold
  // the lock for long begins with all_words() and comes again until it is 0. Pages freed since the
  // last age() are spared, unless `recent_too`.
  void discard(size_t& words, size_t bytes, bool recent_too);
  size_t all_words() const { return pages_.size(); }
  void age();

 private:
  // The state of 64 pages, a bit each.
  struct PageWord {
    uint64_t allocated = 0;
    uint64_t touched = 0;
    uint64_t recent = 0;  // freed since the last age()
  };

  size_t page_of(const std::byte* block) const {
    return static_cast<size_t>(block - memory_.data()) >> page_shift_;
  }
  template <class Function>
  void for_each_word(size_t page, unsigned order, Function&& function);

  const unsigned page_shift_;
  const Mapping memory_;
  const size_t nr_pages_;
  std::vector<BlockSet> free_;         // by order, of block numbers: page >> order
  std::unique_ptr<uint8_t[]> orders_;  // of allocated blocks, by their first page
  std::vector<PageWord> pages_;
  size_t touched_pages_ = 0;
};

}  // namespace ublk::internal

#endif  // UBLK_SRC_BUDDY_ALLOCATOR_H
