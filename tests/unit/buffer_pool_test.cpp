// SPDX-License-Identifier: MIT
// The buffer pool on one thread: who gets memory, when and in which order, and that no more than
// the budget is ever resident. Several caches stand for several rings.
#include "ublk/buffer_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "ublk/error.h"

namespace {

using ublk::BufferPool;
using Cache = BufferPool::Cache;
using Device = BufferPool::Device;

const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

struct CountingWaker final : BufferPool::Waker {
  void call_soon() noexcept override { ++calls; }
  int calls = 0;
};

// A ring's thread.
struct Ring {
  explicit Ring(BufferPool& pool, size_t limit = Cache::kDefaultLimit)
      : cache(pool, waker, limit) {}
  void poll_if_called() {
    if (std::exchange(waker.calls, 0) > 0) cache.poll();
  }
  CountingWaker waker;
  Cache cache;
};

struct Tag final : BufferPool::Waiter {
  void granted(std::byte* memory) noexcept override {
    buffer = memory;
    if (then) then();
  }
  // True: at once.
  bool acquire(Ring& ring, Device& device, size_t bytes) {
    buffer = ring.cache.acquire(device, bytes, *this);
    return buffer != nullptr;
  }
  void release(Ring& ring, Device& device) {
    ring.cache.release(device, std::exchange(buffer, nullptr));
  }
  std::byte* buffer = nullptr;
  std::function<void()> then;
};

size_t resident_bytes(const std::set<std::byte*>& pages) {
  size_t bytes = 0;
  for (std::byte* page : pages) {
    unsigned char in_core = 0;
    if (mincore(page, kPage, &in_core) == 0 && (in_core & 1) != 0) bytes += kPage;
  }
  return bytes;
}

// Touches all of a buffer, and notes its pages.
void touch(std::byte* buffer, size_t bytes, std::set<std::byte*>& pages) {
  memset(buffer, 0x5a, bytes);
  for (size_t at = 0; at < bytes; at += kPage) pages.insert(buffer + at);
}

TEST(BufferPool, BuffersAreAlignedAndApart) {
  BufferPool pool(64 << 20);
  Device device(pool, 1 << 20);
  Ring ring(pool);
  const size_t sizes[] = {1, 512, kPage, kPage + 1, 12345, 65536, 200000, 1 << 20};
  std::deque<Tag> tags;
  std::vector<size_t> lengths;
  for (int round = 0; round < 8; ++round) {
    for (const size_t bytes : sizes) {
      ASSERT_TRUE(tags.emplace_back().acquire(ring, device, bytes));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tags.back().buffer) % kPage, 0u);
      memset(tags.back().buffer, static_cast<int>(tags.size()), bytes);
      lengths.push_back(bytes);
    }
  }
  for (size_t i = 0; i < tags.size(); ++i) {
    const std::byte expected{static_cast<unsigned char>(i + 1)};
    EXPECT_TRUE(std::all_of(tags[i].buffer, tags[i].buffer + lengths[i],
                            [=](std::byte b) { return b == expected; }));
    tags[i].release(ring, device);
  }
  EXPECT_EQ(pool.stats().in_use, 0u);
}

TEST(BufferPool, SmallRequestsDoNotFragmentItForLargeOnes) {
  BufferPool pool((16 << 20) + kPage);
  Device device(pool, kPage);
  Device large(pool, 1);
  Ring ring(pool);
  std::vector<std::unique_ptr<Tag>> tags;
  do {
    tags.push_back(std::make_unique<Tag>());
  } while (tags.back()->acquire(ring, device, kPage));
  ring.cache.cancel(*tags.back());
  tags.pop_back();
  EXPECT_EQ(tags.size() * kPage, 16u << 20) << "the shared part and one reserve";
  std::shuffle(tags.begin(), tags.end(), std::mt19937(1));
  for (const auto& tag : tags) tag->release(ring, device);

  Tag tag;
  std::optional<Device> eight(std::in_place, pool, 8 << 20);
  EXPECT_TRUE(tag.acquire(ring, *eight, 4 << 20));
  EXPECT_EQ(pool.stats().in_use, 4u << 20) << "of the shared part, else it were 8 MiB";
  tag.release(ring, *eight);
}

TEST(BufferPool, GrantsInOrderWhenExhausted) {
  BufferPool pool(5 * kPage);
  Device device(pool, kPage);  // leaves four pages
  Ring ring(pool);
  Ring other(pool);
  Tag held[5];
  for (Tag& tag : held) ASSERT_TRUE(tag.acquire(ring, device, kPage));
  Tag first;
  Tag second;
  Tag third;
  EXPECT_FALSE(first.acquire(ring, device, kPage));
  EXPECT_FALSE(second.acquire(other, device, kPage));
  EXPECT_FALSE(third.acquire(ring, device, kPage));
  EXPECT_EQ(pool.stats().waiting, 3u);
  EXPECT_EQ(pool.stats().has_waited, 3u);
  other.poll_if_called();
  ring.poll_if_called();

  held[0].release(ring, device);
  EXPECT_EQ(first.buffer, nullptr) << "not before poll()";
  EXPECT_EQ(ring.waker.calls, 1);
  EXPECT_EQ(other.waker.calls, 0);
  ring.poll_if_called();
  EXPECT_NE(first.buffer, nullptr);
  held[1].release(ring, device);
  EXPECT_EQ(other.waker.calls, 1);
  ring.poll_if_called();
  EXPECT_EQ(third.buffer, nullptr);
  other.poll_if_called();
  EXPECT_NE(second.buffer, nullptr);
  held[4].release(ring, device);  // the reserve
  ring.poll_if_called();
  EXPECT_NE(third.buffer, nullptr);
  EXPECT_EQ(pool.stats().waiting, 0u);

  for (Tag* tag : {&held[2], &held[3], &first, &second, &third}) tag->release(ring, device);
  EXPECT_EQ(pool.stats().in_use, 0u);
}

TEST(BufferPool, SmallOnesQueueBehindALargeOneButReservesGoPast) {
  BufferPool pool(13 * kPage);
  Device busy(pool, 4 * kPage);
  Device idle(pool, kPage);
  Ring ring(pool, 0);
  Tag held[8];
  for (Tag& tag : held) ASSERT_TRUE(tag.acquire(ring, busy, kPage));
  Tag reserve;
  ASSERT_TRUE(reserve.acquire(ring, busy, kPage)) << "the device's own";
  held[7].release(ring, busy);  // one page is free

  Tag large;
  Tag small;
  Tag reserved;
  Tag late;
  EXPECT_FALSE(large.acquire(ring, busy, 4 * kPage));
  EXPECT_FALSE(small.acquire(ring, busy, kPage)) << "though there is a page";
  EXPECT_TRUE(reserved.acquire(ring, idle, kPage));
  EXPECT_FALSE(late.acquire(ring, idle, kPage));
  ring.poll_if_called();
  // Seven pages are in use of eight; four must come free that are one block.
  for (int i = 6; i >= 4; --i) {
    EXPECT_EQ(large.buffer, nullptr);
    held[i].release(ring, busy);
    ring.poll_if_called();
  }
  EXPECT_NE(large.buffer, nullptr);
  EXPECT_EQ(small.buffer, nullptr);
  held[0].release(ring, busy);
  ring.poll_if_called();
  EXPECT_NE(small.buffer, nullptr);
  EXPECT_EQ(late.buffer, nullptr);
  reserved.release(ring, idle);
  ring.poll_if_called();
  EXPECT_NE(late.buffer, nullptr);

  for (Tag* tag : {&held[1], &held[2], &held[3], &reserve, &large, &small})
    tag->release(ring, busy);
  late.release(ring, idle);
  EXPECT_EQ(pool.stats().in_use, 0u);
}

TEST(BufferPool, EachDeviceMakesProgressWithNothingButReserves) {
  constexpr size_t kDevices = 8;
  constexpr size_t kBytes = 256 << 10;
  BufferPool pool(kDevices * kBytes);
  std::deque<Device> devices;
  for (size_t i = 0; i < kDevices; ++i) devices.emplace_back(pool, kBytes);
  Ring ring(pool);
  std::deque<Tag> running(kDevices);
  std::deque<Tag> waiting(kDevices);
  for (size_t i = 0; i < kDevices; ++i) {
    EXPECT_TRUE(running[i].acquire(ring, devices[i], kBytes));
    EXPECT_FALSE(waiting[i].acquire(ring, devices[i], kBytes));
  }
  EXPECT_EQ(pool.stats().in_use, pool.stats().budget);
  // In any order: no device waits for another.
  for (size_t i = kDevices; i-- > 0;) {
    running[i].release(ring, devices[i]);
    ring.poll_if_called();
    ASSERT_NE(waiting[i].buffer, nullptr);
    waiting[i].release(ring, devices[i]);
  }
  EXPECT_EQ(pool.stats().in_use, 0u);
}

TEST(BufferPool, ARequestLargerThanTheSharedPartHoldsUpNobody) {
  BufferPool pool(6 * kPage);
  Device large(pool, 4 * kPage);  // leaves two pages
  Device small(pool, 1);          // and one
  Ring ring(pool);
  Tag reserve;
  Tag waits;
  ASSERT_TRUE(reserve.acquire(ring, large, 4 * kPage));
  EXPECT_FALSE(waits.acquire(ring, large, 4 * kPage));
  Tag page;
  EXPECT_TRUE(page.acquire(ring, large, 1)) << "shared";
  reserve.release(ring, large);
  ring.poll_if_called();
  EXPECT_NE(waits.buffer, nullptr);
  waits.release(ring, large);
  page.release(ring, large);
}

TEST(BufferPool, RegistrationBeyondTheBudgetSaysWhatThereIs) {
  BufferPool pool(1 << 20);
  std::optional<Device> first(std::in_place, pool, 768 << 10);
  try {
    const Device second(pool, 512 << 10);
    FAIL() << "has taken it";
  } catch (const ublk::Error& error) {
    EXPECT_EQ(error.error(), ENOMEM);
    const std::string text = error.what();
    EXPECT_NE(text.find("524288"), std::string::npos) << text;
    EXPECT_NE(text.find("262144"), std::string::npos) << text;
    EXPECT_NE(text.find("1048576"), std::string::npos) << text;
  }
  EXPECT_EQ(pool.stats().reserved, 768u << 10);
  first.reset();
  EXPECT_NO_THROW(Device(pool, 1 << 20));
}

TEST(BufferPool, RefusesSizesThatMakeNoSense) {
  EXPECT_THROW(BufferPool(0), ublk::Error);
  BufferPool pool(64 << 20);
  EXPECT_THROW(Device(pool, 0), ublk::Error);
  EXPECT_THROW(Device(pool, BufferPool::kMaxIoBytes + 1), ublk::Error);
  Device device(pool, BufferPool::kMaxIoBytes);
  Device page(pool, kPage);
  Ring ring(pool);
  Tag tag;
  EXPECT_THROW(tag.acquire(ring, device, 0), std::invalid_argument);
  EXPECT_THROW(tag.acquire(ring, page, kPage + 1), std::invalid_argument);
  EXPECT_THROW(tag.acquire(ring, device, SIZE_MAX), std::invalid_argument);
  EXPECT_TRUE(tag.acquire(ring, device, 2 * kPage));
  tag.release(ring, device);
  EXPECT_THROW(tag.acquire(ring, page, 2 * kPage), std::invalid_argument) << "now it is cached";
  EXPECT_TRUE(tag.acquire(ring, device, BufferPool::kMaxIoBytes));
  tag.release(ring, device);
}

TEST(BufferPool, AReserveThatServesTheFirstLetsTheNextOnesGo) {
  BufferPool pool(9 * kPage);
  Device device(pool, 4 * kPage);  // leaves five pages
  Ring ring(pool, 0);
  Tag held;
  Tag reserve;
  ASSERT_TRUE(held.acquire(ring, device, 4 * kPage));
  ASSERT_TRUE(reserve.acquire(ring, device, 4 * kPage));
  Tag large;
  Tag small;
  EXPECT_FALSE(large.acquire(ring, device, 4 * kPage));
  EXPECT_FALSE(small.acquire(ring, device, kPage)) << "though there is a page";
  reserve.release(ring, device);
  ring.poll_if_called();
  EXPECT_NE(large.buffer, nullptr);
  EXPECT_NE(small.buffer, nullptr);
  for (Tag* tag : {&held, &large, &small}) tag->release(ring, device);
}

// A late device has made the shared part too small for the first in the line.
TEST(BufferPool, AFirstWaiterThatFitsNoMoreHoldsUpNobody) {
  BufferPool pool(16 * kPage);
  Device device(pool, 8 * kPage);  // leaves eight pages
  Ring ring(pool, 0);
  Tag held[2];
  Tag reserve;
  for (Tag& tag : held) ASSERT_TRUE(tag.acquire(ring, device, 4 * kPage));
  ASSERT_TRUE(reserve.acquire(ring, device, 8 * kPage));
  Tag large;
  Tag small;
  EXPECT_FALSE(large.acquire(ring, device, 8 * kPage));
  EXPECT_FALSE(small.acquire(ring, device, kPage));
  Device late(pool, kPage);  // leaves seven
  held[0].release(ring, device);
  ring.poll_if_called();
  EXPECT_EQ(large.buffer, nullptr);
  EXPECT_NE(small.buffer, nullptr);
  reserve.release(ring, device);
  ring.poll_if_called();
  EXPECT_NE(large.buffer, nullptr);
  for (Tag* tag : {&held[1], &large, &small}) tag->release(ring, device);
}

TEST(BufferPool, CancelTakesAWaiterOutOfTheLine) {
  BufferPool pool(9 * kPage);
  Device device(pool, 8 * kPage);  // leaves one page
  Device other(pool, 1);           // and none
  Ring ring(pool, 0);
  Tag reserve;
  Tag own;
  ASSERT_TRUE(reserve.acquire(ring, device, 1));
  ASSERT_TRUE(own.acquire(ring, other, 1));
  Tag a;
  Tag b;
  EXPECT_FALSE(a.acquire(ring, device, 8 * kPage));
  EXPECT_FALSE(b.acquire(ring, device, kPage));
  ring.cache.cancel(a);
  ring.cache.cancel(a);  // does not wait any more
  reserve.release(ring, device);
  ring.poll_if_called();
  EXPECT_EQ(a.buffer, nullptr);
  EXPECT_NE(b.buffer, nullptr);

  // Granted, but the thread does not know yet: it goes to the next.
  EXPECT_FALSE(a.acquire(ring, device, kPage));
  Tag c;
  EXPECT_FALSE(c.acquire(ring, device, kPage));
  b.release(ring, device);
  ring.cache.cancel(a);
  ring.poll_if_called();
  EXPECT_EQ(a.buffer, nullptr);
  EXPECT_NE(c.buffer, nullptr);
  c.release(ring, device);
  own.release(ring, other);
  EXPECT_EQ(pool.stats().in_use, 0u);
  EXPECT_EQ(pool.stats().waiting, 0u);
}

TEST(BufferPool, CancellingALargeFirstWaiterLetsTheNextOnesGo) {
  BufferPool pool(9 * kPage);
  Device device(pool, 4 * kPage);  // leaves five pages
  Ring ring(pool, 0);
  Tag held;
  Tag reserve;
  ASSERT_TRUE(held.acquire(ring, device, 4 * kPage));
  ASSERT_TRUE(reserve.acquire(ring, device, 4 * kPage));
  Tag large;
  Tag small;
  EXPECT_FALSE(large.acquire(ring, device, 4 * kPage));
  EXPECT_FALSE(small.acquire(ring, device, kPage));
  ring.cache.cancel(large);
  ring.poll_if_called();
  EXPECT_NE(small.buffer, nullptr);
  for (Tag* tag : {&held, &reserve, &small}) tag->release(ring, device);
}

TEST(BufferPool, AGrantedCallbackMayCancelOthersAndAcquireAgain) {
  BufferPool pool(3 * kPage);
  Device device(pool, kPage);
  Ring ring(pool);
  Tag held[3];
  for (Tag& tag : held) ASSERT_TRUE(tag.acquire(ring, device, kPage));
  Tag a;
  Tag b;
  Tag c;
  EXPECT_FALSE(a.acquire(ring, device, kPage));
  EXPECT_FALSE(b.acquire(ring, device, kPage));
  bool c_at_once = false;
  a.then = [&] {
    ring.cache.cancel(b);
    c_at_once = c.acquire(ring, device, kPage);
  };
  held[0].release(ring, device);
  held[1].release(ring, device);
  ring.poll_if_called();
  EXPECT_NE(a.buffer, nullptr);
  EXPECT_EQ(b.buffer, nullptr);
  EXPECT_TRUE(c_at_once);
  for (Tag* tag : {&held[2], &a, &c}) tag->release(ring, device);
}

TEST(BufferPool, WaitersGetWhatOtherThreadsHaveCached) {
  BufferPool pool((4 << 20) + kPage);
  Device device(pool, kPage);
  Device large(pool, 1);
  Ring hoarder(pool);
  Ring ring(pool);
  std::deque<Tag> tags(64);
  for (Tag& tag : tags) ASSERT_TRUE(tag.acquire(hoarder, device, kPage));
  for (Tag& tag : tags) tag.release(hoarder, device);
  EXPECT_EQ(pool.stats().cached, 64 * kPage);
  EXPECT_EQ(pool.stats().in_use, 0u);

  // All the rest, until one has to wait.
  std::deque<Tag> rest;
  while (rest.emplace_back().acquire(ring, device, kPage)) {
  }
  EXPECT_GT(hoarder.waker.calls, 0);
  hoarder.poll_if_called();
  EXPECT_EQ(pool.stats().cached, 0u);
  ring.poll_if_called();
  EXPECT_NE(rest.back().buffer, nullptr);

  // While somebody waits, nothing goes into a cache.
  std::deque<Tag> more;
  while (more.emplace_back().acquire(ring, device, kPage)) {
  }
  rest.front().release(hoarder, device);
  EXPECT_EQ(pool.stats().cached, 0u);
  ring.poll_if_called();
  EXPECT_NE(more.back().buffer, nullptr);
  rest.pop_front();
  for (Tag& tag : rest) tag.release(ring, device);
  for (Tag& tag : more) tag.release(ring, device);
}

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

TEST(BufferPool, ALateDeviceGetsWhatOthersHaveOnlyCached) {
  BufferPool pool(16 << 20);
  Ring hoarder(pool);
  Ring ring(pool);
  Device early(pool, kPage);
  Tag cached[2];
  for (Tag& tag : cached) ASSERT_TRUE(tag.acquire(hoarder, early, kPage));
  for (Tag& tag : cached) tag.release(hoarder, early);
  ASSERT_EQ(pool.stats().cached, 2 * kPage);
  Device late(pool, (16 << 20) - kPage);  // leaves nothing, not even what is cached
  Tag tag;
  EXPECT_FALSE(tag.acquire(ring, late, kPage));
  hoarder.poll_if_called();
  ring.poll_if_called();
  ASSERT_NE(tag.buffer, nullptr);
  tag.release(ring, late);
}

TEST(BufferPool, ADeviceThatGoesLeavesItsMemoryToTheWaiting) {
  BufferPool pool(8 << 20);
  Ring ring(pool);
  Device stays(pool, 1 << 20);
  std::optional<Device> goes(std::in_place, pool, 6 << 20);
  Tag held[2];
  for (Tag& tag : held) ASSERT_TRUE(tag.acquire(ring, stays, 1 << 20));
  Tag waits;
  EXPECT_FALSE(waits.acquire(ring, stays, 1 << 20));
  goes.reset();
  ring.poll_if_called();
  EXPECT_NE(waits.buffer, nullptr);
  for (Tag* tag : {&held[0], &held[1], &waits}) tag->release(ring, stays);
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
