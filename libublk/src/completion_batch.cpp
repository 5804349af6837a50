// SPDX-License-Identifier: MIT
#include "ublk/completion_batch.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

#include "remote_commits.h"
#include "ublk/error.h"

namespace ublk {

namespace internal {

Wakeup::Wakeup() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!fd_) throw Error(errno, "eventfd");
}

void Wakeup::write() {
  writes_.fetch_add(1, std::memory_order_relaxed);
  const uint64_t one = 1;
  // It can fail only when the count, which nobody reads, would overflow: in 500 000 years.
  static_cast<void>(!::write(fd_.get(), &one, sizeof(one)));
}

}  // namespace internal

CompletionBatch::CompletionBatch() = default;
CompletionBatch::~CompletionBatch() { flush(); }

void CompletionBatch::add(std::shared_ptr<internal::Wakeup> wakeup) {
  {
    const std::lock_guard lock(mutex_);
    wakeup.swap(wakeup_);
    pending_.store(true, std::memory_order_relaxed);
  }
  if (wakeup != nullptr) wakeup->write();
}

bool CompletionBatch::commit(internal::Slot& slot) {
  const std::lock_guard lock(mutex_);
  try {
    if (commits_ == nullptr) commits_ = std::make_unique<internal::RemoteCommits>();
  } catch (const std::bad_alloc&) {
    return false;
  }
  if (!commits_->add(slot)) return false;
  pending_.store(true, std::memory_order_relaxed);
  return true;
}

// With the lock: commits, and returns who is to be woken.
std::shared_ptr<internal::Wakeup> CompletionBatch::take() {
  pending_.store(false, std::memory_order_relaxed);
  if (commits_ != nullptr) commits_->flush();
  return std::exchange(wakeup_, nullptr);
}

void CompletionBatch::flush() {
  if (!pending()) return;
  std::unique_lock lock(mutex_);
  const auto wakeup = take();
  lock.unlock();
  if (wakeup != nullptr) wakeup->write();
}

void CompletionBatch::flush_if_left() {
  if (!pending()) return;
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const auto wakeup = take();
  lock.unlock();
  if (wakeup != nullptr) wakeup->write();
}

}  // namespace ublk
