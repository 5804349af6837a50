// SPDX-License-Identifier: MIT
#include "ublk/buffer_pool.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>

#include "buddy_allocator.h"
#include "mapping.h"
#include "ublk/error.h"

namespace ublk {

using internal::BuddyAllocator;
using Lock = std::lock_guard<std::mutex>;

static_assert(BufferPool::kMaxIoBytes == BuddyAllocator::kMaxBlock);

// Discarding a page costs some 100 ns, and is done with the mutex held: this much at a time.
constexpr size_t kDiscardBytes = size_t{1} << 20;

static size_t whole_pages(size_t budget) {
  const size_t page = internal::page_size();
  if (budget >= page) return budget & ~(page - 1);
  throw Error(EINVAL, "make a buffer pool of " + std::to_string(budget) + " bytes",
              "the budget must be at least one page of " + std::to_string(page));
}

BufferPool::BufferPool(size_t budget, Waker* trimmer)
    : budget_(whole_pages(budget)),
      trimmer_(trimmer),
      arena_(std::make_unique<BuddyAllocator>(budget_)) {}

BufferPool::~BufferPool() = default;

size_t BufferPool::resident() const { return arena_->touched() + reserves_touched_ + charged_; }

// Called when a block or reserve is about to be touched for the first time, and counted already.
// What is in use, and touched reserves, fit into the budget; so if all together does not, then free
// pages of the arena must go, and there are enough of them.
void BufferPool::became_resident() {
  keep_to_budget();
  if (!trimming_) {
    trimming_ = true;
    if (trimmer_ != nullptr) trimmer_->call_soon();
  }
}

void BufferPool::keep_to_budget() {
  if (resident() <= budget_) return;
  size_t words = arena_->all_words();
  arena_->discard(words, std::max(resident() - budget_, kDiscardBytes), true);
}

std::byte* BufferPool::take_shared(unsigned order) {
  const size_t used = shared_used_ + arena_->bytes_of(order);
  if (used > shared_limit()) return nullptr;
  std::byte* block = arena_->allocate(order);
  if (block == nullptr) return nullptr;
  shared_used_ = used;
  became_resident();
  return block;
}

std::byte* BufferPool::take_reserve(Device& device) {
  if (device.reserve_in_use_) return nullptr;
  if (!device.reserve_touched_) {
    const size_t bytes = device.reserve_->size();
    // Can only be so if overcommitted.
    if (shared_used_ + reserves_touched_ + charged_ + bytes > budget_) return nullptr;
    device.reserve_touched_ = true;
    reserves_touched_ += bytes;
    became_resident();
  }
  device.reserve_in_use_ = true;
  reserves_in_use_ += device.reserve_->size();
  return device.reserve_->data();
}

void BufferPool::free_shared(const std::byte* block) {
  shared_used_ -= arena_->bytes_of(arena_->order_of(block));
  arena_->free(block);
}

void BufferPool::give_back(Device& device, std::byte* buffer) {
  if (arena_->contains(buffer)) {
    const bool was_overcommitted = overcommitted();
    free_shared(buffer);
    serve(was_overcommitted);
  } else {
    device.reserve_in_use_ = false;
    device.reserve_recent_ = true;
    reserves_in_use_ -= device.reserve_->size();
    serve_from_reserve(device);
  }
}

// Gives what has become free to those who wait for it.
void BufferPool::serve(bool was_overcommitted) {
  // Free reserves could not be used, so that there may be waiters beside them.
  if (was_overcommitted) {
    for (Device* device : devices_) serve_from_reserve(*device);
  }
  while (!in_turn_.empty()) {
    Waiter& waiter = in_turn_.front();
    if (arena_->bytes_of(waiter.order_) > shared_limit()) {
      // The shared part has become too small for it. It stays in its device's list.
      waiter.turn_.unlink();
      continue;
    }
    std::byte* block = take_shared(waiter.order_);
    if (block == nullptr) break;
    grant(waiter, block);
  }
  update_pressure();
}

void BufferPool::serve_from_reserve(Device& device) {
  if (device.waiters_.empty()) return;
  std::byte* buffer = take_reserve(device);
  if (buffer == nullptr) return;
  Waiter& waiter = device.waiters_.front();
  const bool was_first = !in_turn_.empty() && &in_turn_.front() == &waiter;
  grant(waiter, buffer);
  // The next one may need less.
  if (was_first) serve(false);
}

void BufferPool::grant(Waiter& waiter, std::byte* buffer) {
  waiter.turn_.unlink();
  waiter.device_link_.unlink();
  --nr_waiting_;
  waiter.phase_ = Waiter::Phase::kGranted;
  waiter.buffer_ = buffer;
  waiter.cache_->granted_.push_back(waiter.turn_);
  waiter.cache_->wake();
}

void BufferPool::enqueue(Cache& cache, Device& device, unsigned order, Waiter& waiter) {
  waiter.phase_ = Waiter::Phase::kWaiting;
  waiter.order_ = static_cast<uint8_t>(order);
  waiter.cache_ = &cache;
  waiter.device_ = &device;
  device.waiters_.push_back(waiter.device_link_);
  if (arena_->bytes_of(order) <= shared_limit()) in_turn_.push_back(waiter.turn_);
  ++nr_waiting_;
  ++nr_waited_;
  update_pressure();
}

// All caches are woken, also those that look empty: their threads may be filling them right now.
// While overcommitted, also those need what is cached who wait for a reserve.
void BufferPool::update_pressure() {
  const bool pressure = !in_turn_.empty() || (nr_waiting_ > 0 && overcommitted());
  if (pressure == pressure_.load(std::memory_order_relaxed)) return;
  pressure_.store(pressure, std::memory_order_relaxed);
  if (!pressure) return;
  for (Cache* cache : caches_) cache->wake();
}

bool BufferPool::trim() {
  for (size_t words = arena_->all_words(); words > 0;) {
    const Lock lock(mutex_);
    arena_->discard(words, kDiscardBytes, false);
  }
  for (size_t i = 0;; ++i) {
    const Lock lock(mutex_);
    if (i >= devices_.size()) break;
    Device& device = *devices_[i];
    if (!device.reserve_touched_ || device.reserve_in_use_) continue;
    if (!device.reserve_recent_ && device.reserve_->discard(0, device.reserve_->size())) {
      device.reserve_touched_ = false;
      reserves_touched_ -= device.reserve_->size();
    }
    device.reserve_recent_ = false;
  }
  const Lock lock(mutex_);
  arena_->age();
  for (Cache* cache : caches_) {
    if (cache->cached_.load(std::memory_order_relaxed) == 0) continue;
    cache->flush_ = true;
    cache->wake();
  }
  trimming_ = resident() > charged_;
  return trimming_;
}

BufferPool::Stats BufferPool::stats() const {
  const Lock lock(mutex_);
  size_t cached = 0;
  for (const Cache* cache : caches_) cached += cache->cached_.load(std::memory_order_relaxed);
  // A cache's count may be ahead of, or behind, the pool's for a moment.
  cached = std::min(cached, shared_used_);
  return {.budget = budget_,
          .reserved = reserved_,
          .in_use = shared_used_ - cached + reserves_in_use_,
          .cached = cached,
          .resident = resident(),
          .waiting = nr_waiting_,
          .has_waited = nr_waited_};
}

// ---------------------------------------------------------------------------------------- Device

static size_t check_max_io(size_t bytes) {
  if (bytes >= 1 && bytes <= BufferPool::kMaxIoBytes) return bytes;
  throw Error(EINVAL, "register a device with the buffer pool",
              "requests of " + std::to_string(bytes) + " bytes; expected 1 to " +
                  std::to_string(BufferPool::kMaxIoBytes));
}

BufferPool::Device::Device(BufferPool& pool, size_t max_io_bytes)
    : pool_(pool),
      reserve_(std::make_unique<internal::Mapping>(check_max_io(max_io_bytes))),
      max_io_bytes_(max_io_bytes) {
  const Lock lock(pool_.mutex_);
  if (reserve_->size() > pool_.shared_limit()) {
    throw Error(ENOMEM, "register a device with the buffer pool",
                "one request of the largest size needs " + std::to_string(reserve_->size()) +
                    " bytes, and of the budget of " + std::to_string(pool_.budget_) + " only " +
                    std::to_string(pool_.shared_limit()) + " are not reserved by other devices");
  }
  pool_.devices_.push_back(this);
  pool_.reserved_ += reserve_->size();
  pool_.update_pressure();
}

BufferPool::Device::~Device() {
  // Not resident any more before it is not counted any more.
  reserve_->discard(0, reserve_->size());
  const Lock lock(pool_.mutex_);
  const bool was_overcommitted = pool_.overcommitted();
  std::erase(pool_.devices_, this);
  pool_.reserved_ -= reserve_->size();
  if (reserve_touched_) pool_.reserves_touched_ -= reserve_->size();
  pool_.serve(was_overcommitted);
}

// ---------------------------------------------------------------------------------------- Charge

BufferPool::Charge::Charge(BufferPool& pool, size_t bytes, size_t at_least)
    : pool_(pool), bytes_(bytes) {
  const Lock lock(pool_.mutex_);
  const size_t limit = pool_.shared_limit();
  const size_t used = std::max(pool_.shared_used_, at_least);
  if (used > limit || bytes > limit - used)
    throw Error(ENOMEM, "take " + std::to_string(bytes) + " bytes out of the buffer pool",
                std::to_string(limit > used ? limit - used : 0) + " of its " +
                    std::to_string(pool_.budget_) + " are free for that");
  pool_.reserved_ += bytes;
  pool_.charged_ += bytes;
  pool_.keep_to_budget();
  pool_.update_pressure();
}

BufferPool::Charge::~Charge() {
  const Lock lock(pool_.mutex_);
  const bool was_overcommitted = pool_.overcommitted();
  pool_.reserved_ -= bytes_;
  pool_.charged_ -= bytes_;
  pool_.serve(was_overcommitted);
}

// ----------------------------------------------------------------------------------------- Cache

BufferPool::Cache::Cache(BufferPool& pool, Waker& waker, size_t limit)
    : pool_(pool), waker_(waker), limit_(std::min(limit, pool.budget_ / 16)) {
  const Lock lock(pool_.mutex_);
  pool_.caches_.push_back(this);
}

BufferPool::Cache::~Cache() {
  const Lock lock(pool_.mutex_);
  flush();
  std::erase(pool_.caches_, this);
}

std::byte* BufferPool::Cache::acquire(Device& device, size_t bytes, Waiter& waiter) {
  if (bytes - 1 < device.max_io_bytes_ && !pool_.pressure_.load(std::memory_order_relaxed)) {
    const unsigned order = pool_.arena_->order_for(bytes);
    Shelf& shelf = shelves_[order];
    if (shelf.count > 0) {
      cached_.store(cached_.load(std::memory_order_relaxed) - pool_.arena_->bytes_of(order),
                    std::memory_order_relaxed);
      return shelf.blocks[--shelf.count];
    }
  }
  return acquire_from_pool(device, bytes, waiter);
}

void BufferPool::Cache::release(Device& device, std::byte* buffer) {
  // No exchange is needed for pressure_: see there.
  if (pool_.arena_->contains(buffer) && !pool_.pressure_.load(std::memory_order_relaxed)) {
    const unsigned order = pool_.arena_->order_of(buffer);
    const size_t cached = cached_.load(std::memory_order_relaxed) + pool_.arena_->bytes_of(order);
    Shelf& shelf = shelves_[order];
    if (cached <= limit_ && shelf.count < shelf.blocks.size()) {
      shelf.blocks[shelf.count++] = buffer;
      cached_.store(cached, std::memory_order_relaxed);
      return;
    }
  }
  const Lock lock(pool_.mutex_);
  pool_.give_back(device, buffer);
}

std::byte* BufferPool::Cache::acquire_from_pool(Device& device, size_t bytes, Waiter& waiter) {
  if (bytes == 0 || bytes > device.max_io_bytes_) {
    throw std::invalid_argument("a buffer of " + std::to_string(bytes) +
                                " bytes for a device whose requests have 1 to " +
                                std::to_string(device.max_io_bytes_));
  }
  const unsigned order = pool_.arena_->order_for(bytes);
  const Lock lock(pool_.mutex_);
  if (pool_.in_turn_.empty()) {
    if (std::byte* block = pool_.take_shared(order)) return block;
    flush();
    if (std::byte* block = pool_.take_shared(order)) return block;
  }
  if (device.waiters_.empty()) {
    if (std::byte* buffer = pool_.take_reserve(device)) return buffer;
  }
  pool_.enqueue(*this, device, order, waiter);
  return nullptr;
}

void BufferPool::Cache::cancel(Waiter& waiter) {
  const Lock lock(pool_.mutex_);
  const auto phase = std::exchange(waiter.phase_, Waiter::Phase::kIdle);
  if (phase == Waiter::Phase::kIdle) return;
  waiter.turn_.unlink();
  if (phase == Waiter::Phase::kGranted) {
    pool_.give_back(*waiter.device_, waiter.buffer_);
  } else {
    waiter.device_link_.unlink();
    --pool_.nr_waiting_;
    pool_.serve(false);  // the next one may need less
  }
}

void BufferPool::Cache::poll() {
  {
    const Lock lock(pool_.mutex_);
    if (flush_ || pool_.pressure_.load(std::memory_order_relaxed)) flush();
    flush_ = false;
    called_ = false;
    ready_.take_all(granted_);
  }
  // One at a time: granted() may cancel others of the list, and acquire again.
  while (!ready_.empty()) {
    Waiter& waiter = ready_.front();
    waiter.turn_.unlink();
    waiter.phase_ = Waiter::Phase::kIdle;
    waiter.granted(waiter.buffer_);
  }
}

void BufferPool::Cache::flush() {
  if (cached_.load(std::memory_order_relaxed) == 0) return;
  const bool was_overcommitted = pool_.overcommitted();
  for (Shelf& shelf : shelves_) {
    while (shelf.count > 0) pool_.free_shared(shelf.blocks[--shelf.count]);
  }
  cached_.store(0, std::memory_order_relaxed);
  pool_.serve(was_overcommitted);
}

void BufferPool::Cache::wake() {
  if (called_) return;
  called_ = true;
  waker_.call_soon();
}

}  // namespace ublk
