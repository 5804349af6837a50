// SPDX-License-Identifier: MIT
#include "faulty_backend.h"

#include <array>
#include <cerrno>
#include <utility>

namespace fake {

using ublk::Operation;

FaultyBackend::Fate FaultyBackend::choose() {
  const auto dice = random_() % 400;
  if (dice < 20) return keeps_ ? Fate::kKeep : Fate::kServe;
  if (dice < 22) return Fate::kFail;
  if (dice < 23) return Fate::kShorten;
  if (dice < 24) return Fate::kDrop;
  return Fate::kServe;
}

void FaultyBackend::fail(ublk::Request request, int error) {
  failing_(request.offset() / ublk::abi::kSectorSize, -error);
  request.complete(-error);
}

void FaultyBackend::submit(ublk::Request request) {
  constexpr std::array kErrors = {EIO, ENOSPC, EOPNOTSUPP, ETIMEDOUT, ENOMEM};
  const bool has_data = request.op() == Operation::kRead || request.op() == Operation::kWrite;
  std::unique_lock lock(mutex_);
  Fate fate = choose();
  if (fate == Fate::kKeep) {
    kept_.push_back(std::move(request));
    return;
  }
  const int error = kErrors[random_() % kErrors.size()];
  lock.unlock();
  // What is shortened or dropped has no result that the backend could choose.
  if (request.op() == Operation::kFlush || (fate == Fate::kShorten && !has_data))
    fate = Fate::kServe;
  if (fate == Fate::kServe) {
    backend_.submit(std::move(request));
  } else if (fate == Fate::kFail) {
    fail(std::move(request), error);
  } else {
    failing_(request.offset() / ublk::abi::kSectorSize, -EIO);
    if (fate == Fate::kShorten) request.complete(static_cast<int>(request.length()) - 512);
  }
}

void FaultyBackend::need_buffer(ublk::Request request) {
  std::unique_lock lock(mutex_);
  const bool fails = random_() % 200 == 0;
  lock.unlock();
  if (fails)
    fail(std::move(request), ENOMEM);
  else
    backend_.need_buffer(std::move(request));
}

void FaultyBackend::failed(ublk::Queue&, uint16_t, int error) {
  refused_.fetch_add(1, std::memory_order_release);
  if (error == kRefusedCommit) refused_commits_.fetch_add(1, std::memory_order_release);
}

void FaultyBackend::keep(bool on) {
  std::vector<ublk::Request> released;
  {
    const std::lock_guard lock(mutex_);
    keeps_ = on;
    if (!on) released.swap(kept_);
  }
  for (ublk::Request& request : released) backend_.submit(std::move(request));
}

void FaultyBackend::release() {
  std::unique_lock lock(mutex_);
  if (kept_.empty()) return;
  std::swap(kept_[random_() % kept_.size()], kept_.back());
  ublk::Request request = std::move(kept_.back());
  kept_.pop_back();
  lock.unlock();
  backend_.submit(std::move(request));
}

}  // namespace fake
