// SPDX-License-Identifier: MIT
// A queue and its ring, served by the thread that waits for its requests.
#include <liburing.h>
#include <sys/mman.h>
#include <ublk/handler.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "handler_host_parts.h"

namespace test {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

std::byte* map_buffer() {
  void* memory =
      mmap(nullptr, Queue::kBufferSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  return static_cast<std::byte*>(memory);
}

Queue::Queue(Device& device, uint32_t index)
    : device_(device), index_(index), handle_(new ublk_queue{this}) {
  const int error = io_uring_queue_init(64, &ring_, 0);
  if (error != 0) throw std::system_error(-error, std::generic_category(), "io_uring");
  const ublk_handler& handler = device.library_.table();
  for (uint16_t tag = 0; tag < kDepth; ++tag) {
    auto& slot = *slots_.emplace_back(std::make_unique<Slot>());
    slot.queue = this;
    if (handler.request_private_size == 0) continue;
    const size_t size = (size_t{handler.request_private_size} + 63) / 64 * 64;
    slot.scratch = std::aligned_alloc(64, size);
    std::memset(slot.scratch, 0, size);
  }
  if (handler.queue_open != nullptr)
    device.check(handler.queue_open(device.instance_, handle_.get(), &data_));
}

Queue::~Queue() {
  const ublk_handler& handler = device_.library_.table();
  const int result =
      handler.queue_close == nullptr ? 0 : handler.queue_close(device_.instance_, get(), data_);
  while (result == UBLK_PENDING && !closed_) turn();
  io_uring_queue_exit(&ring_);
}

std::span<std::byte> Queue::buffer(uint16_t tag) { return {slots_.at(tag)->buffer, kBufferSize}; }

void Queue::replace_buffer(uint16_t tag) {
  std::byte* const fresh = map_buffer();
  std::memset(fresh, 0xee, kBufferSize);
  munmap(std::exchange(slots_.at(tag)->buffer, fresh), kBufferSize);
  slots_.at(tag)->fresh = true;
}

void Queue::start(uint16_t tag, ublk_op op, uint64_t offset, uint32_t length, uint32_t flags) {
  Slot& slot = *slots_.at(tag);
  if (slot.state != Slot::State::kIdle) throw std::logic_error("the tag is in use");
  const bool has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  if (has_data && length > kBufferSize) throw std::logic_error("longer than the buffer");
  slot.request = {};
  slot.request.id = reinterpret_cast<uintptr_t>(&slot);
  slot.request.offset = offset;
  slot.request.length = length;
  slot.request.flags = flags;
  if (has_data && !std::exchange(slot.fresh, false)) slot.request.flags |= UBLK_REQUEST_TAG_BUFFER;
  slot.request.op = op;
  slot.request.tag = tag;
  slot.request.buffer = has_data ? slot.buffer : nullptr;
  slot.request.buffer_index = -1;
  slot.request.scratch = slot.scratch;
  slot.state = Slot::State::kWaiting;
  if (device_.on_workers())
    slot.worker = std::thread([this, &slot] { serve(slot); });
  else
    serve(slot);
}

void Queue::serve(Slot& slot) {
  const int result =
      device_.library_.table().submit(device_.instance_, handle_.get(), &slot.request);
  if (result == UBLK_PENDING) return;
  if (slot.state != Slot::State::kWaiting) ++device_.wrong_completions;
  slot.result = result;
  slot.state = Slot::State::kDone;
}

int Queue::finish(uint16_t tag) {
  Slot& slot = *slots_.at(tag);
  if (slot.worker.joinable()) slot.worker.join();
  while (slot.state == Slot::State::kWaiting) turn();
  slot.state = Slot::State::kIdle;
  return slot.result;
}

int Queue::run(ublk_op op, uint64_t offset, uint32_t length, uint32_t flags, uint16_t tag) {
  start(tag, op, offset, length, flags);
  return finish(tag);
}

void Queue::cancel(uint16_t tag) {
  device_.library_.table().cancel(device_.instance_, get(), &slots_.at(tag)->request);
}

io_uring_sqe* Queue::get_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    submit_sqes();
    sqe = io_uring_get_sqe(&ring_);
  }
  std::memset(sqe, 0, sizeof(*sqe));
  fresh_.push_back(sqe);
  return sqe;
}

void Queue::submit_sqes() {
  for (io_uring_sqe* sqe : fresh_) {
    const std::optional<int> result = device_.on_sqe ? device_.on_sqe(*sqe) : std::nullopt;
    if (!result) continue;
    const uint64_t user_data = sqe->user_data;
    faked_.emplace(user_data, *result);
    io_uring_prep_nop(sqe);
    sqe->user_data = user_data;
  }
  fresh_.clear();
  io_uring_submit(&ring_);
}

nanoseconds Queue::until_next_timer() const {
  nanoseconds least = std::chrono::seconds(10);
  for (const auto& [timer, when] : timers_)
    least = std::min(least, std::max<nanoseconds>(when - steady_clock::now(), nanoseconds(0)));
  return least;
}

void Queue::run_timers() {
  std::vector<ublk_timer*> due;
  for (const auto& [timer, when] : timers_)
    if (when <= steady_clock::now()) due.push_back(timer);
  // One may cancel another.
  for (ublk_timer* timer : due)
    if (timers_.erase(timer) != 0) timer->fired(timer);
}

void Queue::turn() {
  submit_sqes();
  const int64_t wait = until_next_timer().count();
  __kernel_timespec timeout{.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
  io_uring_cqe* cqe = nullptr;
  const int error = io_uring_wait_cqe_timeout(&ring_, &cqe, &timeout);
  if (error == -ETIME && timers_.empty()) throw std::runtime_error("no answer for 10 seconds");
  run_timers();
  while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const uint64_t user_data = cqe->user_data;
    int32_t result = cqe->res;
    const uint32_t flags = cqe->flags;
    io_uring_cqe_seen(&ring_, cqe);
    if (user_data == LIBURING_UDATA_TIMEOUT) continue;
    if (const auto fake = faked_.find(user_data); fake != faked_.end()) {
      result = fake->second;
      faked_.erase(fake);
    }
    if ((user_data & UBLK_EVENT_USER_DATA_MARK) != UBLK_EVENT_USER_DATA_MARK)
      throw std::logic_error("an SQE without the mark of an event");
    // NOLINTNEXTLINE(performance-no-int-to-ptr): user_data is a number
    auto* event = reinterpret_cast<ublk_event*>(user_data & ~UBLK_EVENT_USER_DATA_MARK);
    event->handle(event, result, flags);
  }
}

}  // namespace test
