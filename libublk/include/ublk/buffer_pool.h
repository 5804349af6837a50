// SPDX-License-Identifier: MIT
//
// Memory for the data of requests, in get-data and user-copy mode: taken when a request's size is
// known, given back when it ends, from one pool that all devices and ring threads share.
//
//   ublk::BufferPool pool(256 << 20);                    // one for the process
//   ublk::BufferPool::Device share(pool, max_io_bytes);  // one for each device
//   ublk::BufferPool::Cache cache(pool, waker);          // one for each ring, on its thread
//
//   // Backend::need_buffer(); the tag's own state is a Waiter.
//   std::byte* buffer = cache.acquire(share, request.length(), tag_state);
//   if (buffer != nullptr) request.provide_buffer(buffer);  // else tag_state.granted() does it
//   // Backend::buffer_done()
//   cache.release(share, buffer);
//   // The waker:
//   void call_soon() noexcept override { ring.post([this] { cache.poll(); }); }
//
// Budget. No more than `budget` bytes are ever resident. Each device has a reserve of one request
// of its largest size, so that every device can always make progress, whatever the others do and
// even if memory reclaim waits for it. Reserves are a part of the budget but only address space
// until used; the rest is shared. A request gets shared memory, or else its device's reserve, or
// else it waits.
//
// Order. Requests that wait get shared memory first come, first served, whatever their device and
// size: while the first of them needs much, nothing is given to later ones, so that it cannot
// starve. Only reserves go past this order; and a request larger than the whole shared part waits
// for nothing but its device's reserve.
//
// Buffers are page-aligned and hold what was there before. Shared memory is taken in blocks of 2^n
// pages and counted as such. Nothing is allocated after a device's registration.
//
// A process that locks its memory (mlockall) must do so with MCL_ONFAULT, else the system makes the
// whole budget resident at once.
//
// Threads. The pool's own functions, and making and ending a Device: any thread. A Cache: its
// ring's thread only. All that is shared is guarded by one mutex, which is held while wakers are
// called: its place in a lock order is before the locks that call_soon() takes. A Cache's hits take
// no lock.
#ifndef UBLK_BUFFER_POOL_H
#define UBLK_BUFFER_POOL_H

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ublk/export.h"
#include "ublk/intrusive_list.h"

namespace ublk {

namespace internal {
class BuddyAllocator;
class Mapping;
}  // namespace internal

class UBLK_EXPORT BufferPool {
 public:
  static constexpr size_t kMaxIoBytes = size_t{32} << 20;

  class Waker;
  class Waiter;
  class Device;
  class Cache;
  class Charge;

  struct Stats {      // bytes, unless said otherwise
    size_t budget;    // in whole pages
    size_t reserved;  // the sum of the devices' reserves, and of the charges
    size_t in_use;    // held by requests: blocks of the shared part, and reserves
    size_t cached;    // free, in the threads' caches
    size_t resident;  // at most; pages that were handed out and not discarded since, and charges
    size_t waiting;   // requests that wait now
    uint64_t has_waited;  // requests that had to wait, since the pool was made
  };

  // `trimmer`, if any, is called when memory becomes resident after a trim() that returned false
  // (or the first time): it starts a timer that calls trim(). Throws Error.
  explicit BufferPool(size_t budget, Waker* trimmer = nullptr);
  // All devices and caches have ended.
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Gives memory that nobody has used since the last call back to the system. To be called from
  // time to time, every few seconds say, as long as it returns true: there is still memory that is
  // resident. Holds the mutex for short times only.
  bool trim();

  Stats stats() const;

 private:
  using Waiters = internal::List<Waiter>;

  // All with mutex_ held.
  std::byte* take_shared(unsigned order);
  std::byte* take_reserve(Device& device);
  void became_resident();
  void keep_to_budget();
  void give_back(Device& device, std::byte* buffer);
  void free_shared(const std::byte* buffer);
  void serve(bool was_overcommitted);
  void serve_from_reserve(Device& device);
  void enqueue(Cache& cache, Device& device, unsigned order, Waiter& waiter);
  void grant(Waiter& waiter, std::byte* buffer);
  void update_pressure();
  size_t resident() const;
  size_t shared_limit() const { return budget_ - reserved_; }
  // A device was registered while the shared part was in use beyond what it is now.
  bool overcommitted() const { return shared_used_ > shared_limit(); }

  // Whether somebody waits for shared memory: nothing goes into caches then, nor comes from them.
  // Written with the mutex held. Caches read it without and may be late; what they keep by that
  // comes back with the poll() that follows each change to true. A cache line of what hits read,
  // and what seldom changes.
  alignas(64) std::atomic<bool> pressure_{false};
  const size_t budget_;
  Waker* const trimmer_;
  const std::unique_ptr<internal::BuddyAllocator> arena_;  // the shared part
  std::vector<Device*> devices_;
  size_t reserved_ = 0;

  mutable std::mutex mutex_;  // guards all but the constants
  std::vector<Cache*> caches_;
  Waiters in_turn_;              // those whom the shared part can serve
  size_t reserves_touched_ = 0;  // bytes of reserves that may be resident
  size_t reserves_in_use_ = 0;
  size_t charged_ = 0;
  size_t shared_used_ = 0;  // bytes of blocks in use and in caches
  size_t nr_waiting_ = 0;
  uint64_t nr_waited_ = 0;
  bool trimming_ = false;
};

// Calls somebody back on a thread of its own.
class UBLK_EXPORT BufferPool::Waker {
 public:
  // Has Cache::poll() (or, given to the pool, BufferPool::trim()) called soon, on its thread, not
  // from here. Comes from any thread, with the pool's mutex held: it must not call the pool. One
  // call may stand for many.
  virtual void call_soon() noexcept = 0;

 protected:
  ~Waker() = default;
};

// A request's place in the line. The caller's memory, a part of what it keeps for each tag; used
// for one acquire() at a time. It may be destroyed when it does not wait: granted, or cancelled.
class UBLK_EXPORT BufferPool::Waiter {
 public:
  Waiter() = default;
  // The buffer that acquire() could not give at once. On the cache's thread, from Cache::poll().
  virtual void granted(std::byte* buffer) noexcept = 0;

 protected:
  ~Waiter() = default;

 private:
  friend class BufferPool;
  enum class Phase : uint8_t { kIdle, kWaiting, kGranted };
  Phase phase_ = Phase::kIdle;
  uint8_t order_ = 0;
  Cache* cache_ = nullptr;
  Device* device_ = nullptr;
  std::byte* buffer_ = nullptr;            // once granted
  internal::ListLink<Waiter> turn_{this};  // in the pool's list, then the cache's of granted ones
  internal::ListLink<Waiter> device_link_{this};  // in the device's list
};

// A device's registration and reserve.
class UBLK_EXPORT BufferPool::Device {
 public:
  // `max_io_bytes`: of the largest request, up to kMaxIoBytes. Throws Error; ENOMEM: the budget has
  // no room for the reserve. While other devices use more of the shared part than is left of it by
  // now, the reserve must wait for them.
  Device(BufferPool& pool, size_t max_io_bytes);
  // All buffers are released; no request waits.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

 private:
  friend class BufferPool;
  BufferPool& pool_;
  const std::unique_ptr<internal::Mapping> reserve_;
  const size_t max_io_bytes_;
  // Guarded by the pool's mutex.
  Waiters waiters_;
  bool reserve_in_use_ = false;
  bool reserve_touched_ = false;  // may be resident
  bool reserve_recent_ = false;   // was used since the last trim()
};

// A part of the budget that is used elsewhere, by buffers of copy mode, say.
class UBLK_EXPORT BufferPool::Charge {
 public:
  // Throws Error; ENOMEM: so much is neither reserved nor in use, or it would leave less than
  // `at_least` bytes of the budget for others.
  Charge(BufferPool& pool, size_t bytes, size_t at_least = 0);
  // The memory is given back.
  ~Charge();
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  BufferPool& pool_;
  const size_t bytes_;
};

// What a ring's thread keeps of free blocks, so that most requests need not go to the pool.
class UBLK_EXPORT BufferPool::Cache {
 public:
  static constexpr size_t kDefaultLimit = size_t{2} << 20;

  // `waker` has poll() called, and outlives the cache. `limit`: bytes to keep at most; a 16th of
  // the budget if that is less.
  Cache(BufferPool& pool, Waker& waker, size_t limit = kDefaultLimit);
  // None of its waiters waits. call_soon() isn't called any more; what it has posted before must
  // not find this cache.
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // A buffer for `bytes` (1 .. the device's max_io_bytes; others throw std::invalid_argument), or
  // nullptr: then waiter.granted() will give it.
  std::byte* acquire(Device& device, size_t bytes, Waiter& waiter);
  // Gives back a buffer that was acquired for `device`. Meant for the cache that acquired it, but
  // any of the pool will do.
  void release(Device& device, std::byte* buffer);
  // Makes sure that granted() of a waiter of this cache isn't called any more. No-op on one that
  // does not wait.
  void cancel(Waiter& waiter);
  // Does what the waker was called for: calls granted() of waiters whose turn has come, gives free
  // blocks back that others need.
  void poll();

 private:
  friend class BufferPool;
  static constexpr unsigned kOrders = 14;  // of pages of 4 KiB, up to kMaxIoBytes
  struct Shelf {
    unsigned count = 0;
    std::array<std::byte*, 128> blocks;
  };
  std::byte* acquire_from_pool(Device& device, size_t bytes, Waiter& waiter);
  void flush();  // this and the next with the pool's mutex held
  void wake();

  BufferPool& pool_;
  Waker& waker_;
  const size_t limit_;
  std::atomic<size_t> cached_{0};  // bytes; written by the thread alone, without exchange
  std::array<Shelf, kOrders> shelves_;
  Waiters ready_;  // the ring's thread is about to call their granted()
  // Guarded by the pool's mutex.
  Waiters granted_;
  bool called_ = false;  // the waker was called and poll() has not come yet
  bool flush_ = false;   // trim() wants the blocks back
};

}  // namespace ublk

#endif  // UBLK_BUFFER_POOL_H
