// SPDX-License-Identifier: MIT
// Who gets memory when it is scarce, when and in which order.
#include <gtest/gtest.h>

#include <cstddef>
#include <deque>
#include <optional>

#include "buffer_pool_fixture.h"

namespace {

using test::BufferPool;
using test::Device;
using test::kPage;
using test::Ring;
using test::Tag;

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

}  // namespace
