// SPDX-License-Identifier: MIT
#include "ublk/wakeup.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

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

void WakeupBatch::add(std::shared_ptr<internal::Wakeup> wakeup) {
  {
    const std::lock_guard lock(mutex_);
    wakeup.swap(wakeup_);
    pending_.store(true, std::memory_order_relaxed);
  }
  if (wakeup != nullptr) wakeup->write();
}

void WakeupBatch::flush() {
  if (!pending()) return;
  std::shared_ptr<internal::Wakeup> wakeup;
  {
    const std::lock_guard lock(mutex_);
    wakeup.swap(wakeup_);
    pending_.store(false, std::memory_order_relaxed);
  }
  if (wakeup != nullptr) wakeup->write();
}

}  // namespace ublk
