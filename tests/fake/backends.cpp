// SPDX-License-Identifier: MIT
#include "backends.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "ublk/completion_batch.h"

namespace fake {

using ublk::BufferMode;
using ublk::Operation;

namespace {

thread_local ublk::CompletionBatch* batch_of_thread = nullptr;

}  // namespace

// -------------------------------------------------------------------- memory --

void MemoryBackend::submit(ublk::Request request) {
  const int result = execute(request);
  request.complete(result, batch_of_thread);
}

int MemoryBackend::execute(ublk::Request& request) {
  const BufferMode mode = request.queue().mode();
  const bool flush = request.op() == Operation::kFlush;
  std::byte* data = data_.data() + (flush ? 0 : request.offset());
  const uint32_t length = request.length();
  switch (request.op()) {
    case Operation::kRead:
      if (mode == BufferMode::kUserCopy)
        return static_cast<int>(request.write_data(data, length, 0));
      if (mode == BufferMode::kGetData) request.set_buffer(new std::byte[length]);
      std::memcpy(request.buffer(), data, length);
      return static_cast<int>(length);
    case Operation::kWrite:
      if (mode == BufferMode::kUserCopy)
        return static_cast<int>(request.read_data(data, length, 0));
      std::memcpy(data, request.buffer(), length);
      return static_cast<int>(length);
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      std::memset(data, 0, length);
      return 0;
    case Operation::kFlush:
      return 0;
    default:
      return -EOPNOTSUPP;
  }
}

void MemoryBackend::need_buffer(ublk::Request request) {
  // As long as the request and no longer, for AddressSanitizer's sake.
  auto* buffer = new std::byte[request.length()];
  request.provide_buffer(buffer);
}

void MemoryBackend::buffer_done(ublk::Queue&, uint16_t, std::byte* buffer) { delete[] buffer; }

// ------------------------------------------------------------------- workers --

WorkersBackend::WorkersBackend(ublk::Backend& backend, unsigned threads) : backend_(backend) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

WorkersBackend::~WorkersBackend() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  changed_.notify_all();
}

void WorkersBackend::submit(ublk::Request request) {
  const std::lock_guard lock(mutex_);
  requests_.push_back(std::move(request));
  changed_.notify_one();
}

void WorkersBackend::work() {
  constexpr unsigned kBatch = 5;
  ublk::CompletionBatch batch;
  batch_of_thread = &batch;
  unsigned left = kBatch;
  std::unique_lock lock(mutex_);
  while (true) {
    if (requests_.empty() || left-- == 0) {
      left = kBatch;
      lock.unlock();
      batch.flush();
      lock.lock();
    }
    changed_.wait(lock, [this] { return ending_ || !requests_.empty(); });
    if (requests_.empty()) return;
    ublk::Request request = std::move(requests_.front());
    requests_.pop_front();
    lock.unlock();
    backend_.submit(std::move(request));
    lock.lock();
  }
}

}  // namespace fake
