// SPDX-License-Identifier: MIT
#include "ublk/queue.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "command.h"
#include "slot.h"
#include "ublk/ring.h"

namespace ublk {

using internal::Slot;
using internal::SlotState;

Backend::~Backend() = default;
void Backend::failed(Queue&, uint16_t, int) {}
void Backend::stopped(Queue&) {}
std::byte* Backend::alloc_io_buffer(Queue&, uint16_t, size_t) { return nullptr; }
void Backend::free_io_buffer(Queue&, uint16_t, std::byte*) {}

Queue::Queue(Ring& ring, std::shared_ptr<DeviceNode> node, uint16_t index, Backend& backend,
             Slot* slots, uint16_t ring_slot, int file_slot)
    : ring_(ring),
      node_(std::move(node)),
      backend_(backend),
      descriptors_(node_->descriptors(index)),
      slots_(slots),
      index_(index),
      depth_(node_->info().queue_depth),
      ring_slot_(ring_slot),
      file_slot_(file_slot),
      buffer_size_(node_->info().max_io_buf_bytes) {
  allocate_buffers();
}

Queue::~Queue() { free_buffers(); }

// ----------------------------------------------------------------- buffers --

void Queue::allocate_buffers() {
  std::byte* first = backend_.alloc_io_buffer(*this, 0, buffer_size_);
  if (first == nullptr) {
    void* map = mmap(nullptr, depth_ * buffer_size_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    // A huge page would make one small request cost as much memory as hundreds.
    madvise(map, depth_ * buffer_size_, MADV_NOHUGEPAGE);
    buffers_ = static_cast<std::byte*>(map);
    return;
  }
  try {
    own_buffers_ = std::make_unique<std::byte*[]>(depth_);
  } catch (...) {
    backend_.free_io_buffer(*this, 0, first);
    throw;
  }
  own_buffers_[0] = first;
  for (uint16_t tag = 1; tag < depth_; ++tag) {
    own_buffers_[tag] = backend_.alloc_io_buffer(*this, tag, buffer_size_);
    if (own_buffers_[tag] == nullptr) {
      free_buffers();
      throw std::bad_alloc();
    }
  }
}

void Queue::free_buffers() {
  if (buffers_ != nullptr) munmap(buffers_, depth_ * buffer_size_);
  buffers_ = nullptr;
  if (own_buffers_ == nullptr) return;
  for (uint16_t tag = 0; tag < depth_; ++tag)
    if (own_buffers_[tag] != nullptr) backend_.free_io_buffer(*this, tag, own_buffers_[tag]);
  own_buffers_.reset();
}

std::byte* Queue::buffer_of(uint16_t tag) const {
  return buffers_ != nullptr ? buffers_ + tag * buffer_size_ : own_buffers_[tag];
}

// -------------------------------------------------------- fetch and commit --

bool Queue::submit_command(abi::IoOp op, uint16_t tag, int result) {
  io_uring_sqe* sqe = ring_.get_sqe();
  if (sqe == nullptr) return false;
  const abi::IoCmd payload = {.q_id = index_,
                              .tag = tag,
                              .result = result,
                              .addr = reinterpret_cast<uint64_t>(buffer_of(tag))};
  const bool fixed = file_slot_ >= 0;
  internal::prepare_io_command(*sqe, fixed ? file_slot_ : node_->fd(), fixed ? IOSQE_FIXED_FILE : 0,
                               op, payload, internal::make_user_data(ring_slot_, tag));
  if (node_->driver().redirects()) node_->driver().redirect(*ring_.uring(), *sqe);
  ++with_kernel_;
  return true;
}

void Queue::fetch_all() {
  for (uint16_t tag = 0; tag < depth_; ++tag)
    if (!submit_command(abi::IoOp::kFetchReq, tag, 0)) backend_.failed(*this, tag, EBUSY);
}

void Queue::handle_cqe(uint16_t tag, int result) {
  --with_kernel_;
  if (result == abi::kIoResOk) {
    dispatch(tag);
    return;
  }
  if (result != -ENODEV) backend_.failed(*this, tag, result < 0 ? -result : EPROTO);
  if (with_kernel_ == 0 && in_flight_ == 0) ring_.queue_stopped(*this);
}

void Queue::dispatch(uint16_t tag) {
  Slot& slot = slots_[tag];
  slot.ring = &ring_;
  slot.queue = this;
  slot.tag = tag;
  slot.desc = descriptors_[tag];
  ++in_flight_;
  ++ring_.in_flight_;
  // Release: another thread that gets the id by any way, and whose exchange acquires this word,
  // sees the slot filled in.
  slot.word.store(Slot::make_word(slot.generation(), SlotState::kServer),
                  std::memory_order_release);
  backend_.submit(Request(&slot));
}

// A result that the kernel can take: for a read or write all of it or an error, since kernels
// differ in what they make of a short one, and warn about a long one.
static int checked_result(const abi::IoDesc& desc, int result) {
  constexpr int kMaxErrno = 4095;
  if (result < 0) return result >= -kMaxErrno ? result : -EIO;
  const auto op = static_cast<Operation>(desc.op_flags & abi::kOpMask);
  if (op != Operation::kRead && op != Operation::kWrite) return 0;
  const uint64_t length = uint64_t{desc.nr_sectors} * abi::kSectorSize;
  return static_cast<uint64_t>(result) == length ? result : -EIO;
}

void Queue::commit(Slot& slot, int result) {
  if (!submit_command(abi::IoOp::kCommitAndFetchReq, slot.tag, checked_result(slot.desc, result))) {
    ring_.defer_commit(slot, result);
    return;
  }
  --in_flight_;
  --ring_.in_flight_;
  slot.word.store(Slot::make_word(slot.generation() + 1, SlotState::kKernel),
                  std::memory_order_relaxed);
}

}  // namespace ublk
