// SPDX-License-Identifier: MIT
// The buddy allocator under the buffer pool: any size, no overlap, everything merges again, and it
// knows what may be resident.
#include "buddy_allocator.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace {

using ublk::internal::BuddyAllocator;
using ublk::internal::page_size;

const size_t kPage = page_size();

TEST(BuddyAllocator, OrderIsTheSmallestThatHolds) {
  const BuddyAllocator arena(64 * kPage);
  EXPECT_EQ(arena.order_for(1), 0u);
  EXPECT_EQ(arena.order_for(kPage), 0u);
  EXPECT_EQ(arena.order_for(kPage + 1), 1u);
  EXPECT_EQ(arena.order_for(2 * kPage), 1u);
  EXPECT_EQ(arena.order_for(5 * kPage), 3u);
  EXPECT_EQ(arena.bytes_of(arena.order_for(BuddyAllocator::kMaxBlock)), BuddyAllocator::kMaxBlock);
}

TEST(BuddyAllocator, SplitsALargeBlockAndMergesItAgain) {
  BuddyAllocator arena(16 * kPage);
  std::byte* const base = arena.allocate(4);
  ASSERT_NE(base, nullptr);
  EXPECT_EQ(arena.allocate(0), nullptr);
  arena.free(base);

  std::array<std::byte*, 16> pages{};
  for (std::byte*& page : pages) page = arena.allocate(0);
  EXPECT_EQ(std::set<std::byte*>(pages.begin(), pages.end()).size(), 16u);
  EXPECT_EQ(pages.front(), base) << "the lowest address comes first";
  EXPECT_EQ(arena.allocate(0), nullptr);

  // Every other page: nothing can merge.
  for (size_t i = 0; i < 16; i += 2) arena.free(pages[i]);
  EXPECT_EQ(arena.allocate(1), nullptr);
  for (size_t i = 1; i < 16; i += 2) arena.free(pages[i]);
  EXPECT_EQ(arena.allocate(4), base);
}

TEST(BuddyAllocator, UsesAllOfASizeThatIsNoPowerOfTwo) {
  const size_t pages = 8192 + 4096 + 64 + 8 + 1;
  BuddyAllocator arena(pages * kPage);
  std::vector<std::byte*> blocks;
  while (std::byte* block = arena.allocate(0)) {
    ASSERT_TRUE(arena.contains(block + kPage - 1));
    blocks.push_back(block);
  }
  EXPECT_EQ(blocks.size(), pages);
  for (std::byte* block : blocks) arena.free(block);
  const unsigned largest = arena.order_for(BuddyAllocator::kMaxBlock);
  EXPECT_NE(arena.allocate(largest), nullptr);
  EXPECT_EQ(arena.allocate(largest), nullptr);
  EXPECT_NE(arena.allocate(largest - 1), nullptr);
}

TEST(BuddyAllocator, DiscardsWhatIsFreeAndOldEnough) {
  BuddyAllocator arena(256 * kPage);
  std::byte* const kept = arena.allocate(5);
  std::byte* const freed = arena.allocate(6);
  EXPECT_EQ(arena.touched(), 96 * kPage);
  arena.free(freed);
  EXPECT_EQ(arena.touched(), 96 * kPage) << "free, but still resident";

  size_t words = arena.all_words();
  arena.discard(words, SIZE_MAX, false);
  EXPECT_EQ(words, 0u);
  EXPECT_EQ(arena.touched(), 96 * kPage) << "freed a moment ago";

  arena.age();
  words = arena.all_words();
  arena.discard(words, SIZE_MAX, false);
  EXPECT_EQ(arena.touched(), 32 * kPage);

  arena.free(kept);
  words = arena.all_words();
  arena.discard(words, SIZE_MAX, true);
  EXPECT_EQ(arena.touched(), 0u);
}

TEST(BuddyAllocator, DiscardStopsWhenItHasEnoughAndGoesOnFromThere) {
  BuddyAllocator arena(1024 * kPage);
  arena.free(arena.allocate(10));
  size_t words = arena.all_words();
  arena.discard(words, 100 * kPage, true);
  EXPECT_EQ(arena.touched(), (1024 - 128) * kPage) << "in steps of 64 pages";
  EXPECT_GT(words, 0u);
  arena.discard(words, SIZE_MAX, true);
  EXPECT_EQ(arena.touched(), 0u);
}

// Against a model: a map of what is allocated, and the set of touched pages.
TEST(BuddyAllocator, KeepsToTheModelWhateverComes) {
  constexpr size_t kPages = 1000;
  BuddyAllocator arena(kPages * kPage);
  std::byte* const base = arena.allocate(9);  // the only one, at the front
  arena.free(base);
  std::mt19937 random(42);
  std::map<size_t, size_t> live;  // first page: pages
  std::set<size_t> touched;
  for (size_t page = 0; page < 512; ++page) touched.insert(page);
  for (int i = 0; i < 20000; ++i) {
    const unsigned what = random() % 16;
    if (what < 8) {
      const unsigned order = random() % 8;
      std::byte* const block = arena.allocate(order);
      if (block == nullptr) continue;
      const auto first = static_cast<size_t>(block - base) / kPage;
      const size_t count = size_t{1} << order;
      ASSERT_LE(first + count, kPages);
      ASSERT_EQ(arena.order_of(block), order);
      const auto next = live.lower_bound(first);
      ASSERT_TRUE(next == live.end() || first + count <= next->first);
      ASSERT_TRUE(next == live.begin() ||
                  std::prev(next)->first + std::prev(next)->second <= first);
      live[first] = count;
      for (size_t page = first; page < first + count; ++page) touched.insert(page);
    } else if (what < 15 && !live.empty()) {
      const auto victim = std::next(live.begin(), static_cast<long>(random() % live.size()));
      arena.free(base + victim->first * kPage);
      live.erase(victim);
    } else if (what == 15 && i % 50 == 0) {
      size_t words = arena.all_words();
      arena.discard(words, SIZE_MAX, true);
      touched.clear();
      for (const auto& [first, count] : live) {
        for (size_t page = first; page < first + count; ++page) touched.insert(page);
      }
    }
    ASSERT_EQ(arena.touched(), touched.size() * kPage);
  }
  for (const auto& [first, count] : live) arena.free(base + first * kPage);
  EXPECT_NE(arena.allocate(9), nullptr) << "all has merged";
}

}  // namespace
