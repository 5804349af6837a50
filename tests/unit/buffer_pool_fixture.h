// SPDX-License-Identifier: MIT
// Who takes buffers of a pool, all on one thread: several caches stand for several rings.
#ifndef UBLK_TESTS_UNIT_BUFFER_POOL_FIXTURE_H
#define UBLK_TESTS_UNIT_BUFFER_POOL_FIXTURE_H

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <functional>
#include <set>
#include <utility>

#include "ublk/buffer_pool.h"

namespace test {

using ublk::BufferPool;

using Cache = BufferPool::Cache;
using Device = BufferPool::Device;

inline const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

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

inline size_t resident_bytes(const std::set<std::byte*>& pages) {
  size_t bytes = 0;
  for (std::byte* page : pages) {
    unsigned char in_core = 0;
    if (mincore(page, kPage, &in_core) == 0 && (in_core & 1) != 0) bytes += kPage;
  }
  return bytes;
}

// Touches all of a buffer, and notes its pages.
inline void touch(std::byte* buffer, size_t bytes, std::set<std::byte*>& pages) {
  memset(buffer, 0x5a, bytes);
  for (size_t at = 0; at < bytes; at += kPage) pages.insert(buffer + at);
}

}  // namespace test

#endif  // UBLK_TESTS_UNIT_BUFFER_POOL_FIXTURE_H
