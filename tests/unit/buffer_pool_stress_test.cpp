// SPDX-License-Identifier: MIT
// The buffer pool with several ring threads, devices that come and go, and a trimmer, all at once:
// no two live buffers overlap, no waiter is lost, and the budget holds. Each buffer carries its
// owner's mark on all of its pages while it is held.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "ublk/buffer_pool.h"

namespace {

using ublk::BufferPool;
using Device = BufferPool::Device;

constexpr size_t kRings = 4;
constexpr size_t kDevices = 6;
constexpr int kSteps = 40000;
constexpr size_t kSmallest = size_t{64} << 10;    // of the devices' largest requests
constexpr auto kLost = std::chrono::seconds(30);  // no waiter waits that long

std::atomic<uint64_t> next_mark{1};
std::atomic<uint64_t> overlaps{0};

// A ring thread's sleep: until the pool calls, or it is told to stop.
class Sleep final : public BufferPool::Waker {
 public:
  void call_soon() noexcept override { set(called_); }
  void stop() { set(stopped_); }

  bool take_call() {
    const std::lock_guard lock(mutex_);
    return std::exchange(called_, false);
  }
  // False: stopped, or the deadline has passed.
  bool wait_for_call(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    wakeup_.wait_until(lock, deadline, [this] { return called_ || stopped_; });
    return std::exchange(called_, false);
  }

 private:
  void set(bool& flag) {
    const std::lock_guard lock(mutex_);
    flag = true;
    wakeup_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable wakeup_;
  bool called_ = false;
  bool stopped_ = false;
};

class RingThread {
 public:
  RingThread(BufferPool& pool, std::deque<Device>& devices, unsigned seed)
      : pool_(pool), devices_(devices), random_(seed) {}

  void run(std::atomic<size_t>& running) {
    cache_.emplace(pool_, sleep_);
    for (int step = 0; step < kSteps; ++step) {
      if (sleep_.take_call()) cache_->poll();
      this->step();
      if (step % 32 == 0) std::this_thread::yield();  // else few processors interleave little
    }
    finish();
    running.fetch_sub(1, std::memory_order_release);
    idle();
    cache_.reset();
  }

  void stop() { sleep_.stop(); }

  uint64_t granted_later = 0;
  uint64_t cancelled = 0;
  size_t lost = 0;  // waiters

 private:
  enum class State : uint8_t { kFree, kHeld, kWaiting };

  struct Tag final : BufferPool::Waiter {
    void granted(std::byte* memory) noexcept override {
      ++ring->granted_later;
      ring->hold(*this, memory);
    }
    RingThread* ring = nullptr;
    State state = State::kFree;
    Device* device = nullptr;
    std::byte* buffer = nullptr;
    size_t bytes = 0;
    uint64_t mark = 0;
  };

  void step() {
    Tag& tag = tags_[random_() % tags_.size()];
    tag.ring = this;
    switch (tag.state) {
      case State::kFree:
        acquire(tag);
        break;
      case State::kHeld:
        release(tag);
        break;
      case State::kWaiting:
        if (random_() % 8 != 0) break;
        cache_->cancel(tag);
        tag.state = State::kFree;
        ++cancelled;
        break;
    }
  }

  void acquire(Tag& tag) {
    const size_t which = random_() % devices_.size();
    tag.device = &devices_[which];
    // Devices differ by their largest request; most requests are small.
    const size_t most = kSmallest << which;
    tag.bytes = 1 + random_() % (most >> random_() % 8);
    tag.state = State::kWaiting;
    std::byte* buffer = cache_->acquire(*tag.device, tag.bytes, tag);
    if (buffer != nullptr) hold(tag, buffer);
  }

  void hold(Tag& tag, std::byte* buffer) {
    tag.buffer = buffer;
    tag.state = State::kHeld;
    tag.mark = next_mark.fetch_add(1, std::memory_order_relaxed);
    for (size_t at = 0; at + sizeof(tag.mark) <= tag.bytes; at += 4096) {
      memcpy(buffer + at, &tag.mark, sizeof(tag.mark));
    }
  }

  void release(Tag& tag) {
    for (size_t at = 0; at + sizeof(tag.mark) <= tag.bytes; at += 4096) {
      uint64_t found = 0;
      memcpy(&found, tag.buffer + at, sizeof(found));
      if (found != tag.mark) ++overlaps;
    }
    tag.state = State::kFree;
    cache_->release(*tag.device, tag.buffer);
  }

  // Releases all that is held, again and again, until nobody waits.
  void finish() {
    const auto deadline = std::chrono::steady_clock::now() + kLost;
    while (true) {
      bool waiting = false;
      for (Tag& tag : tags_) {
        if (tag.state == State::kHeld) release(tag);
        waiting |= tag.state == State::kWaiting;
      }
      if (!waiting) return;
      if (!sleep_.wait_for_call(deadline)) break;
      cache_->poll();
    }
    for (Tag& tag : tags_) {
      if (tag.state != State::kWaiting) continue;
      ++lost;
      cache_->cancel(tag);
      tag.state = State::kFree;
    }
  }

  // Has nothing to do any more, but blocks in its cache that others may need.
  void idle() {
    while (sleep_.wait_for_call(std::chrono::steady_clock::time_point::max())) cache_->poll();
  }

  BufferPool& pool_;
  std::deque<Device>& devices_;
  std::mt19937 random_;
  Sleep sleep_;
  std::optional<BufferPool::Cache> cache_;
  std::array<Tag, 64> tags_;
};

// `spare`: what the budget has beyond the reserves of the devices.
void run(size_t spare, bool must_wait) {
  size_t reserves = 0;
  for (size_t i = 0; i < kDevices; ++i) reserves += kSmallest << i;
  BufferPool pool(reserves + spare);
  std::deque<Device> devices;
  for (size_t i = 0; i < kDevices; ++i) devices.emplace_back(pool, kSmallest << i);

  std::deque<RingThread> rings;
  for (unsigned i = 0; i < kRings; ++i) rings.emplace_back(pool, devices, i + 1);
  std::vector<std::thread> threads;
  threads.reserve(kRings);
  std::atomic<size_t> running{kRings};
  for (RingThread& ring : rings) {
    threads.emplace_back([&ring, &running] { ring.run(running); });
  }
  // Meanwhile: trims, looks at the statistics, and has a device come and go, which makes the shared
  // part smaller than what is in use of it.
  std::mt19937 random(99);
  std::optional<Device> guest;
  while (running.load(std::memory_order_acquire) > 0) {
    const BufferPool::Stats stats = pool.stats();
    EXPECT_LE(stats.resident, stats.budget);
    EXPECT_LE(stats.in_use + stats.cached, stats.budget);
    if (random() % 4 == 0) pool.trim();
    if (guest) {
      guest.reset();
    } else if (spare > 0 && random() % 2 == 0) {
      guest.emplace(pool, std::min(spare - random() % (spare / 2), BufferPool::kMaxIoBytes));
    }
    std::this_thread::yield();
  }
  guest.reset();
  for (RingThread& ring : rings) ring.stop();
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(overlaps.exchange(0), 0u);
  uint64_t granted_later = 0;
  uint64_t cancelled = 0;
  for (const RingThread& ring : rings) {
    EXPECT_EQ(ring.lost, 0u);
    granted_later += ring.granted_later;
    cancelled += ring.cancelled;
  }
  EXPECT_EQ(granted_later + cancelled, pool.stats().has_waited);
  EXPECT_TRUE(granted_later > 0 || !must_wait) << "the test has tested nothing";
  EXPECT_EQ(pool.stats().in_use, 0u);
  EXPECT_EQ(pool.stats().cached, 0u);
  EXPECT_EQ(pool.stats().waiting, 0u);
  int trims = 0;
  while (pool.trim() && trims < 3) ++trims;
  EXPECT_EQ(pool.stats().resident, 0u);
}

TEST(BufferPoolStress, NothingButReserves) { run(0, true); }
TEST(BufferPoolStress, HardPressed) { run(2 << 20, true); }
TEST(BufferPoolStress, SometimesPressed) { run(24 << 20, true); }
TEST(BufferPoolStress, Plenty) { run(256 << 20, false); }

// One thread wants the whole shared part again and again, of which others keep blocks in their
// caches: it gets it though they fall asleep with what they cached while it began to wait.
TEST(BufferPoolStress, NobodyKeepsWhatAnotherWaitsFor) {
  constexpr int kRounds = 5000;
  BufferPool pool(2 << 20);
  Device device(pool, 1 << 20);

  struct Tag final : BufferPool::Waiter {
    void granted(std::byte* memory) noexcept override { buffer = memory; }
    std::byte* buffer = nullptr;
  };
  std::atomic<int> round{0};
  std::atomic<int> begun{0};  // rounds, by each hoarder
  std::deque<Sleep> sleeps(3);
  Sleep& sleep = sleeps[2];
  BufferPool::Cache cache(pool, sleep);
  // The reserve is taken for good.
  Tag all;
  Tag reserve;
  all.buffer = cache.acquire(device, 1 << 20, all);
  reserve.buffer = cache.acquire(device, 1 << 20, reserve);
  cache.release(device, all.buffer);

  std::vector<std::thread> hoarders;
  hoarders.reserve(2);
  for (size_t i = 0; i < 2; ++i) {
    hoarders.emplace_back([&, i] {
      BufferPool::Cache own(pool, sleeps[i]);
      std::array<Tag, 4> tags;
      int seen = 0;
      do {
        own.poll();
        if (std::exchange(seen, round.load()) == seen) continue;
        for (int burst = 0; burst < 8; ++burst) {
          for (Tag& tag : tags) tag.buffer = own.acquire(device, 4096, tag);
          for (Tag& tag : tags) {
            own.cancel(tag);
            if (tag.buffer != nullptr) own.release(device, tag.buffer);
          }
          if (burst > 0) continue;
          begun.fetch_add(1);
          begun.notify_one();
        }
      } while (sleeps[i].wait_for_call(std::chrono::steady_clock::time_point::max()));
    });
  }

  int lost = 0;
  for (int i = 0; i < kRounds && lost == 0; ++i) {
    round.store(i + 1);
    for (size_t hoarder = 0; hoarder < 2; ++hoarder) sleeps[hoarder].call_soon();
    for (int now = begun.load(); now < 2 * (i + 1); now = begun.load()) begun.wait(now);
    all.buffer = cache.acquire(device, 1 << 20, all);
    while (all.buffer == nullptr && lost == 0) {
      if (sleep.wait_for_call(std::chrono::steady_clock::now() + kLost)) {
        cache.poll();
      } else {
        ++lost;
        cache.cancel(all);
      }
    }
    if (all.buffer != nullptr) cache.release(device, all.buffer);
  }
  EXPECT_EQ(lost, 0);
  EXPECT_GT(pool.stats().has_waited, 0u);
  for (Sleep& each : sleeps) each.stop();
  for (std::thread& thread : hoarders) thread.join();
  cache.release(device, reserve.buffer);
}

}  // namespace
