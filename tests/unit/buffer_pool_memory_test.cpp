// SPDX-License-Identifier: MIT
// How much memory a pool holds: never more than its budget, and what is idle it gives back.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>
#include <random>
#include <set>

#include "buffer_pool_fixture.h"

namespace {

using test::BufferPool;
using test::CountingWaker;
using test::Device;
using test::kPage;
using test::resident_bytes;
using test::Ring;
using test::Tag;
using test::touch;

TEST(BufferPool, CachesAreBounded) {
  BufferPool pool(64 << 20);
  Device device(pool, 1 << 20);
  Ring ring(pool, 1 << 20);
  std::deque<Tag> tags(40);
  for (const size_t bytes : {size_t{1} << 20, size_t{64} << 10, kPage}) {
    for (Tag& tag : tags) ASSERT_TRUE(tag.acquire(ring, device, bytes));
    for (Tag& tag : tags) tag.release(ring, device);
    EXPECT_GT(pool.stats().cached, 0u);
    EXPECT_LE(pool.stats().cached, 1u << 20);
  }
  BufferPool small(1 << 20);
  Device page(small, kPage);
  Ring small_ring(small);
  for (Tag& tag : tags) ASSERT_TRUE(tag.acquire(small_ring, page, kPage));
  for (Tag& tag : tags) tag.release(small_ring, page);
  EXPECT_LE(small.stats().cached, (1u << 20) / 16) << "of a small budget, a small part";
}

TEST(BufferPool, TrimGivesIdleMemoryBackAndLeavesTheRest) {
  CountingWaker trimmer;
  BufferPool pool(64 << 20, &trimmer);
  Device device(pool, 1 << 20);
  Ring ring(pool);
  EXPECT_FALSE(pool.trim());
  EXPECT_EQ(trimmer.calls, 0);

  std::set<std::byte*> pages;
  std::deque<Tag> tags(80);  // more than the shared 63 MiB: the reserve too
  for (Tag& tag : tags) {
    if (tag.acquire(ring, device, 1 << 20)) touch(tag.buffer, 1 << 20, pages);
  }
  EXPECT_EQ(trimmer.calls, 1);
  EXPECT_EQ(resident_bytes(pages), 64u << 20);
  for (Tag& tag : tags) ring.cache.cancel(tag);
  // One stays in use.
  for (size_t i = 1; i < tags.size(); ++i) {
    if (tags[i].buffer != nullptr) tags[i].release(ring, device);
  }
  EXPECT_TRUE(pool.trim());
  EXPECT_EQ(resident_bytes(pages), 64u << 20) << "was in use a moment ago";
  ring.poll_if_called();
  EXPECT_TRUE(pool.trim());
  EXPECT_TRUE(pool.trim()) << "one is in use";
  EXPECT_EQ(resident_bytes(pages), 1u << 20);
  EXPECT_EQ(pool.stats().resident, 1u << 20);
  EXPECT_EQ(tags[0].buffer[(1 << 20) - 1], std::byte{0x5a});

  tags[0].release(ring, device);
  int trims = 1;
  for (; pool.trim(); ++trims) ring.poll_if_called();
  EXPECT_LE(trims, 4);
  EXPECT_EQ(resident_bytes(pages), 0u);
  EXPECT_EQ(pool.stats().resident, 0u);
  EXPECT_EQ(trimmer.calls, 1);
  ASSERT_TRUE(tags[0].acquire(ring, device, kPage));
  EXPECT_EQ(trimmer.calls, 2);
  tags[0].release(ring, device);
}

TEST(BufferPool, TrimLeavesASteadyLoadAlone) {
  BufferPool pool(64 << 20);
  Device device(pool, 1 << 20);
  Ring ring(pool);
  std::set<std::byte*> pages;
  std::deque<Tag> tags(8);
  for (int interval = 0; interval < 6; ++interval) {
    for (int i = 0; i < 3; ++i) {
      for (Tag& tag : tags) {
        ASSERT_TRUE(tag.acquire(ring, device, 1 << 20));
        if (interval == 0) touch(tag.buffer, 1 << 20, pages);
      }
      for (Tag& tag : tags) tag.release(ring, device);
    }
    EXPECT_TRUE(pool.trim());
    ring.poll_if_called();
    EXPECT_EQ(resident_bytes(pages), 8u << 20);
  }
}

TEST(BufferPool, TrimsLockedMemory) {
  if (mlockall(MCL_FUTURE | MCL_ONFAULT) != 0) GTEST_SKIP() << "mlockall: " << strerror(errno);
  {
    BufferPool pool(8 << 20);
    Device device(pool, 1 << 20);
    Ring ring(pool);
    Tag tag;
    ASSERT_TRUE(tag.acquire(ring, device, 1 << 20));
    std::set<std::byte*> pages;
    touch(tag.buffer, 1 << 20, pages);
    EXPECT_EQ(resident_bytes(pages), 1u << 20);
    tag.release(ring, device);
    for (int i = 0; i < 4 && pool.trim(); ++i) ring.poll_if_called();
    EXPECT_EQ(resident_bytes(pages), 0u);
  }
  munlockall();
}

// A device that comes while the others use more than they may from now on has to wait for them, and
// nothing exceeds the budget meanwhile.
TEST(BufferPool, ALateDeviceWaitsForItsReserve) {
  BufferPool pool(8 << 20);
  Ring ring(pool);
  Device early(pool, 1 << 20);
  std::set<std::byte*> pages;
  std::deque<Tag> held(8);
  for (Tag& tag : held) {
    ASSERT_TRUE(tag.acquire(ring, early, 1 << 20));
    touch(tag.buffer, 1 << 20, pages);
  }
  Device late(pool, 7 << 20);  // leaves nothing
  Tag first;
  Tag second;
  EXPECT_FALSE(first.acquire(ring, late, 7 << 20));
  EXPECT_FALSE(second.acquire(ring, early, 1 << 20));
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(first.buffer, nullptr);
    held[i].release(ring, early);
    EXPECT_LE(pool.stats().resident, pool.stats().budget);
    ring.poll_if_called();
  }
  ASSERT_NE(first.buffer, nullptr);
  touch(first.buffer, 7 << 20, pages);
  EXPECT_LE(resident_bytes(pages), 8u << 20);
  EXPECT_EQ(second.buffer, nullptr);
  held[7].release(ring, early);  // its reserve
  ring.poll_if_called();
  EXPECT_NE(second.buffer, nullptr);
  second.release(ring, early);
  first.release(ring, late);
}

// What was touched anywhere, now free, counts as well.
TEST(BufferPool, IsNeverAboveTheBudget) {
  constexpr size_t kBudget = 4 << 20;
  BufferPool pool(kBudget);
  Ring ring(pool);
  std::deque<Device> devices;
  std::set<std::byte*> pages;
  std::mt19937 random(7);
  struct Held {
    Tag tag;
    size_t device = 0;
  };
  std::deque<Held> tags(64);
  for (int i = 0; i < 3000; ++i) {
    // From all shared to next to nothing.
    if (i % 400 == 0 && devices.size() < 7) devices.emplace_back(pool, 512 << 10);
    Held& held = tags[random() % tags.size()];
    ring.cache.cancel(held.tag);
    if (held.tag.buffer != nullptr) {
      held.tag.release(ring, devices[held.device]);
    } else {
      held.device = random() % devices.size();
      const size_t bytes = 1 + random() % (size_t{512} << (10 - random() % 8));
      held.tag.then = [&held, &pages, bytes] { touch(held.tag.buffer, bytes, pages); };
      if (held.tag.acquire(ring, devices[held.device], bytes)) held.tag.then();
    }
    ring.poll_if_called();
    const BufferPool::Stats stats = pool.stats();
    ASSERT_LE(stats.resident, kBudget);
    ASSERT_LE(stats.in_use + stats.cached, kBudget);
    if (i % 20 == 0) {
      ASSERT_LE(resident_bytes(pages), stats.resident);
    }
  }
  for (Held& held : tags) {
    ring.cache.cancel(held.tag);
    if (held.tag.buffer != nullptr) held.tag.release(ring, devices[held.device]);
  }
  EXPECT_EQ(pool.stats().in_use, 0u);
}

}  // namespace
