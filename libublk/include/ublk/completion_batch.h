// SPDX-License-Identifier: MIT
//
// How other threads than the ring's complete requests, and how to do it for many at once.
#ifndef UBLK_COMPLETION_BATCH_H
#define UBLK_COMPLETION_BATCH_H

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "ublk/export.h"
#include "ublk/unique_fd.h"

namespace ublk {

class Ring;

namespace internal {

class RemoteCommits;
struct Slot;

// A ring's eventfd. Any thread.
class Wakeup {
 public:
  Wakeup();  // throws Error
  int fd() const { return fd_.get(); }
  void write();
  uint64_t writes() const { return writes_.load(std::memory_order_relaxed); }

 private:
  UniqueFd fd_;
  std::atomic<uint64_t> writes_{0};
};

}  // namespace internal

// Puts off what completions cost, for a thread that is about to complete several requests:
//
//   ublk::CompletionBatch batch;
//   for (...) request.complete(result, &batch);
//   batch.flush();
//
// Requests of devices with kFlagBatchIo (Linux 7.0) are committed by flush() on the calling thread,
// where the kernel then copies the data of reads, with one system call for all; their ring's thread
// has nothing to do with it. It takes a small io_uring, made by the first such request; without one
// they go the way of the others: by their ring's list, whose thread flush() wakes if it sleeps.
// What has data in memory that was given by set_buffer(), and zero copy, always goes that way.
//
// Until flush() the kernel may know of none of them, and of those in the lists perhaps not even
// their ring's thread. (complete() flushes by itself when there is no room for more.) So flush
// before anything that may take long. complete(), flush() and the destructor are for one thread,
// and the destructor not while another one is in flush_if_left(), which any may call. It holds
// nothing of a ring but requests.
class UBLK_EXPORT CompletionBatch {
 public:
  CompletionBatch();
  ~CompletionBatch();
  CompletionBatch(const CompletionBatch&) = delete;
  CompletionBatch& operator=(const CompletionBatch&) = delete;

  void flush();
  // For another thread than the one that completes: does nothing if that one is in complete() or
  // flush() just now.
  void flush_if_left();
  bool pending() const { return pending_.load(std::memory_order_relaxed); }

 private:
  friend class Ring;
  void add(std::shared_ptr<internal::Wakeup> wakeup);
  bool commit(internal::Slot& slot);  // false: not possible here
  std::shared_ptr<internal::Wakeup> take();

  // A leaf, but for the list and the eventfd of a ring.
  std::mutex mutex_;
  // One ring at a time; another one's turn wakes the first.
  std::shared_ptr<internal::Wakeup> wakeup_;
  std::unique_ptr<internal::RemoteCommits> commits_;
  std::atomic<bool> pending_{false};
};

}  // namespace ublk

#endif  // UBLK_COMPLETION_BATCH_H
