// SPDX-License-Identifier: MIT
//
// The data of reads and writes: memory for it, and its way to the handler and back, in the modes
// where a tag has no buffer of its own.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "device_queue.h"
#include "device_queue_tag.h"
#include "device_queue_timeout.h"
#include "ring_sqe.h"

namespace ublk_runner {

using ublk::BufferMode;

// --------------------------------------------------------- a buffer for each tag --

std::byte* DeviceQueue::alloc_io_buffer(ublk::Queue&, uint16_t tag, size_t bytes) {
  const ublk_handler& table = handler_.table;
  if (table.alloc_io_buffer == nullptr) {
    if (tag == 0) buffers_ = AnonymousMemory(depth_ * bytes);
    return buffers_.get() + tag * bytes;
  }
  void* buffer = table.alloc_io_buffer(handler_.instance, this, tag, bytes);
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  if (buffer != nullptr && reinterpret_cast<uintptr_t>(buffer) % page == 0)
    return static_cast<std::byte*>(buffer);
  if (buffer != nullptr) table.free_io_buffer(handler_.instance, this, tag, buffer, bytes);
  throw std::runtime_error(std::string("alloc_io_buffer of handler ") + table.name + ": " +
                           (buffer == nullptr ? "no memory" : "a buffer that is not page-aligned") +
                           " for tag " + std::to_string(tag) + ", expected " +
                           std::to_string(bytes) + " bytes");
}

void DeviceQueue::free_io_buffer(ublk::Queue& queue, uint16_t tag, std::byte* buffer) {
  const ublk_handler& table = handler_.table;
  if (table.free_io_buffer == nullptr || buffers_.get() != nullptr || tag_for(tag).abandoned)
    return;
  table.free_io_buffer(handler_.instance, this, tag, buffer, queue.node().info().max_io_buf_bytes);
}

// ---------------------------------------------------------- buffers of the pool --

DeviceQueue::BufferWaiter* DeviceQueue::waiter(uint16_t tag) const {
  return reinterpret_cast<BufferWaiter*>(waiters_.get()) + tag;
}

// Once the tag has a buffer, ready() is next, or submit() with the data of a write.
void DeviceQueue::get_buffer(Tag& tag) {
  BufferWaiter* waiter = new (this->waiter(tag.request.tag)) BufferWaiter(tag);
  std::byte* buffer = thread_.buffers().acquire(*handler_.buffers, tag.length, *waiter);
  if (buffer != nullptr) {
    use_buffer(tag, buffer);
    return;
  }
  tag.waiting = true;
  ++nr_waiting_;
}

void DeviceQueue::BufferWaiter::granted(std::byte* buffer) noexcept {
  tag_.waiting = false;
  --tag_.queue->nr_waiting_;
  tag_.queue->use_buffer(tag_, buffer);
}

void DeviceQueue::use_buffer(Tag& tag, std::byte* buffer) {
  const bool is_write = tag.request.op == UBLK_OP_WRITE;
  if (mode_ == BufferMode::kGetData && is_write) {
    tag.whole.provide_buffer(buffer);
    return;
  }
  tag.whole.set_buffer(buffer);
  tag.request.buffer = buffer;
  if (copies_ && is_write && handler_.workers == nullptr)
    copy_on_ring(tag);
  else
    ready(tag);
}

void DeviceQueue::need_buffer(ublk::Request request) { submit(std::move(request)); }

void DeviceQueue::buffer_done(ublk::Queue&, uint16_t tag, std::byte* buffer) {
  if (!tag_for(tag).abandoned) thread_.buffers().release(*handler_.buffers, buffer);
}

template <class Visit>
void DeviceQueue::take_waiting(Visit visit) {
  for (uint16_t i = 0; nr_waiting_ != 0; ++i) {
    Tag& tag = tag_for(i);
    if (!tag.waiting) continue;
    thread_.buffers().cancel(*waiter(i));
    tag.waiting = false;
    --nr_waiting_;
    visit(tag);
  }
}

// Giving up a place in the line may give another of these requests its buffer.
void DeviceQueue::hold_waiting() {
  take_waiting([this](Tag& tag) { set_aside(tag); });
}

void DeviceQueue::fail_waiting() {
  take_waiting([](Tag& tag) { tag.whole.complete(-EIO); });
}

// ------------------------------------------------- user-copy: into and out of them --

void DeviceQueue::copy_on_ring(Tag& tag) {
  static_cast<ublk_event&>(tag).handle = [](ublk_event* event, int32_t result, uint32_t) {
    Tag& copied = *static_cast<Tag*>(event);
    copied.queue->copied(copied, result);
  };
  io_uring_sqe& sqe = get_sqe(thread_.ring());
  queue_->prepare_copy(sqe, *thread_.ring().uring(), tag.whole, tag.whole.buffer(), tag.length, 0);
  io_uring_sqe_set_data64(&sqe, ublk_event_user_data(&tag));
}

void DeviceQueue::copied(Tag& tag, int result) {
  const bool all = result == static_cast<int>(tag.length);
  if (all && tag.request.op == UBLK_OP_WRITE)
    ready(tag);
  else
    tag.whole.complete(all || result < 0 ? result : -EIO);
}

int DeviceQueue::copy_here(Tag& tag) {
  std::byte* buffer = tag.whole.buffer();
  const ssize_t result = tag.request.op == UBLK_OP_WRITE
                             ? tag.whole.read_data(buffer, tag.length, 0)
                             : tag.whole.write_data(buffer, tag.length, 0);
  if (result < 0) return static_cast<int>(result);
  return static_cast<size_t>(result) == tag.length ? 0 : -EIO;
}

// Of a request that has come from another handler: this one may get the data in another way, or
// copy it elsewhere.
void DeviceQueue::give_back_copy(Tag& tag) {
  std::byte* buffer = tag.whole.buffer();
  if (mode_ != BufferMode::kUserCopy || buffer == nullptr) return;
  tag.whole.set_buffer(nullptr);
  thread_.buffers().release(*handler_.buffers, buffer);
}

// On the queue's thread the ring does it, for a system call costs more. Elsewhere it is done at
// once: so it is spread over the threads that complete requests.
void DeviceQueue::finish_copied_read(Tag& tag, int result, ublk::CompletionBatch* batch) {
  if (thread_.ring().on_own_thread()) {
    copy_on_ring(tag);
    return;
  }
  const int error = copy_here(tag);
  tag.whole.complete(error != 0 ? error : result, batch);
}

// ------------------------------------------- data that the handler moves by itself --

namespace {

// What is wrong with moving that part of the request; 0: nothing.
int check_part(const ublk_request& request, uint8_t op, uint32_t length, uint32_t offset) {
  if (request.op != op) return -EACCES;
  if (offset > request.length || length > request.length - offset ||
      length > static_cast<uint32_t>(INT32_MAX))
    return -EINVAL;
  return 0;
}

}  // namespace

// The part of the tag's request as bytes of a buffer, or nullptr: the kernel has them.
std::byte* DeviceQueue::buffer_at(const Tag& tag, uint32_t offset) {
  auto* buffer = static_cast<std::byte*>(tag.request.buffer);
  return buffer == nullptr || tag.request.buffer_index >= 0 ? nullptr : buffer + offset;
}

off_t DeviceQueue::position(const Tag& tag, uint32_t offset) const {
  const uint32_t done = tag.length - tag.left;
  return static_cast<off_t>(ublk::abi::user_copy_offset(index_, tag.request.tag, done + offset));
}

int32_t DeviceQueue::read_data(const ublk_request& request, void* to, uint32_t length,
                               uint32_t offset) noexcept {
  const Tag* tag = waiting_for(request.id);
  if (tag == nullptr) return -EALREADY;
  if (const int error = check_part(request, UBLK_OP_WRITE, length, offset)) return error;
  if (const std::byte* buffer = buffer_at(*tag, offset)) {
    std::memcpy(to, buffer, length);
    return static_cast<int32_t>(length);
  }
  const DataMove move(*tag, request.id);
  if (!move.may_begin()) return -EALREADY;
  const ssize_t n = pread(tag->queue->node_->fd(), to, length, tag->queue->position(*tag, offset));
  return n < 0 ? -errno : static_cast<int32_t>(n);
}

int32_t DeviceQueue::write_data(const ublk_request& request, const void* from, uint32_t length,
                                uint32_t offset) noexcept {
  const Tag* tag = waiting_for(request.id);
  if (tag == nullptr) return -EALREADY;
  if (const int error = check_part(request, UBLK_OP_READ, length, offset)) return error;
  if (std::byte* buffer = buffer_at(*tag, offset)) {
    std::memcpy(buffer, from, length);
    return static_cast<int32_t>(length);
  }
  const DataMove move(*tag, request.id);
  if (!move.may_begin()) return -EALREADY;
  const ssize_t n =
      pwrite(tag->queue->node_->fd(), from, length, tag->queue->position(*tag, offset));
  return n < 0 ? -errno : static_cast<int32_t>(n);
}

int32_t DeviceQueue::move_on_ring(const ublk_request& request, void* memory, uint32_t length,
                                  uint32_t offset, ublk_event& event) {
  const Tag* tag = waiting_for(request.id);
  if (tag == nullptr) return -EALREADY;
  if (buffer_at(*tag, 0) != nullptr)
    return request.op == UBLK_OP_WRITE ? read_data(request, memory, length, offset)
                                       : write_data(request, memory, length, offset);
  const uint8_t op = request.op == UBLK_OP_WRITE ? UBLK_OP_WRITE : UBLK_OP_READ;
  if (const int error = check_part(request, op, length, offset)) return error;
  io_uring_sqe& sqe = get_sqe(thread_.ring());
  queue_->prepare_copy(sqe, *thread_.ring().uring(), tag->whole, memory, length,
                       tag->length - tag->left + offset);
  io_uring_sqe_set_data64(&sqe, ublk_event_user_data(&event));
  return UBLK_PENDING;
}

}  // namespace ublk_runner
