// SPDX-License-Identifier: MIT
#include "buddy_allocator.h"

#include <algorithm>

namespace ublk::internal {

void BlockSet::insert(size_t block) {
  words_[block / 64] |= uint64_t{1} << (block % 64);
  used_words_[block / 4096] |= uint64_t{1} << (block / 64 % 64);
  ++count_;
}

void BlockSet::erase(size_t block) {
  uint64_t& word = words_[block / 64];
  word &= ~(uint64_t{1} << (block % 64));
  if (word == 0) used_words_[block / 4096] &= ~(uint64_t{1} << (block / 64 % 64));
  --count_;
}

size_t BlockSet::smallest() const {
  size_t i = 0;
  while (used_words_[i] == 0) ++i;
  const size_t word = i * 64 + static_cast<size_t>(std::countr_zero(used_words_[i]));
  return word * 64 + static_cast<size_t>(std::countr_zero(words_[word]));
}

BuddyAllocator::BuddyAllocator(size_t bytes)
    : page_shift_(static_cast<unsigned>(std::countr_zero(page_size()))),
      memory_(bytes),
      nr_pages_(memory_.size() >> page_shift_),
      orders_(std::make_unique_for_overwrite<uint8_t[]>(nr_pages_)),
      pages_(nr_pages_ / 64 + 1) {
  const unsigned max_order = order_for(kMaxBlock);
  for (unsigned order = 0; order <= max_order; ++order) free_.emplace_back(nr_pages_ >> order);
  for (size_t page = 0; page < nr_pages_;) {
    unsigned order = max_order;
    while ((page & ((size_t{1} << order) - 1)) != 0 || page + (size_t{1} << order) > nr_pages_) {
      --order;
    }
    free_[order].insert(page >> order);
    page += size_t{1} << order;
  }
}

// A block is aligned to its size, so that it is a part of one word, or whole words.
template <class Function>
void BuddyAllocator::for_each_word(size_t page, unsigned order, Function&& function) {
  const size_t count = size_t{1} << order;
  if (count < 64) {
    function(pages_[page / 64], ((uint64_t{1} << count) - 1) << (page % 64));
  } else {
    for (size_t i = page / 64; i < (page + count) / 64; ++i) function(pages_[i], ~uint64_t{0});
  }
}

std::byte* BuddyAllocator::allocate(unsigned order) {
  unsigned from = order;
  while (from < free_.size() && free_[from].empty()) ++from;
  if (from >= free_.size()) return nullptr;
  size_t block = free_[from].smallest();
  free_[from].erase(block);
  while (from > order) {
    --from;
    block *= 2;
    free_[from].insert(block + 1);
  }
  const size_t page = block << order;
  orders_[page] = static_cast<uint8_t>(order);
  for_each_word(page, order, [this](PageWord& word, uint64_t mask) {
    touched_pages_ += static_cast<size_t>(std::popcount(mask & ~word.touched));
    word.touched |= mask;
    word.allocated |= mask;
  });
  return memory_.data() + (page << page_shift_);
}

void BuddyAllocator::free(const std::byte* memory) {
  const size_t page = page_of(memory);
  unsigned order = orders_[page];
  for_each_word(page, order, [](PageWord& word, uint64_t mask) {
    word.allocated &= ~mask;
    word.recent |= mask;
  });
  size_t block = page >> order;
  while (order + 1 < free_.size() && free_[order].contains(block ^ 1)) {
    free_[order].erase(block ^ 1);
    block /= 2;
    ++order;
  }
  free_[order].insert(block);
}

void BuddyAllocator::discard(size_t& words, size_t bytes, bool recent_too) {
  size_t done = 0;
  while (words > 0 && done < bytes) {
    PageWord& word = pages_[--words];
    uint64_t victims = word.touched & ~word.allocated;
    if (!recent_too) victims &= ~word.recent;
    while (victims != 0) {
      const int first = std::countr_zero(victims);
      const int count = std::countr_one(victims >> first);
      const uint64_t mask = (~uint64_t{0} >> (64 - count)) << first;
      victims &= ~mask;
      const size_t offset = (words * 64 + static_cast<size_t>(first)) << page_shift_;
      const size_t length = static_cast<size_t>(count) << page_shift_;
      if (!memory_.discard(offset, length)) continue;
      word.touched &= ~mask;
      touched_pages_ -= static_cast<size_t>(count);
      done += length;
    }
  }
}

void BuddyAllocator::age() {
  for (PageWord& word : pages_) word.recent = 0;
}

}  // namespace ublk::internal
