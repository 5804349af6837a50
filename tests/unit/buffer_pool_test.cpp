// SPDX-License-Identifier: MIT
// The buffers of a pool and its devices: where they lie, and which sizes there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer_pool_fixture.h"
#include "ublk/error.h"

namespace {

using test::BufferPool;
using test::Device;
using test::kPage;
using test::Ring;
using test::Tag;

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

}  // namespace
