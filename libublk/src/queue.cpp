// SPDX-License-Identifier: MIT
#include "ublk/queue.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "batch.h"
#include "command.h"
#include "mapping.h"
#include "slot.h"
#include "ublk/error.h"
#include "ublk/ring.h"

namespace ublk {

using internal::Phase;
using internal::Slot;
using internal::SlotState;

Backend::~Backend() = default;
void Backend::failed(Queue&, uint16_t, int) {}
void Backend::stopped(Queue&) {}
// The handle's end fails the request.
void Backend::need_buffer(Request) {}
void Backend::buffer_done(Queue&, uint16_t, std::byte*) {}
std::byte* Backend::alloc_io_buffer(Queue&, uint16_t, size_t) { return nullptr; }
void Backend::free_io_buffer(Queue&, uint16_t, std::byte*) {}
void Backend::committing(Queue&, uint16_t, int) {}

BufferMode buffer_mode(const abi::DevInfo& info) {
  if ((info.flags & abi::kFlagUserCopy) != 0) return BufferMode::kUserCopy;
  if ((info.flags & abi::kFlagNeedGetData) != 0) return BufferMode::kGetData;
  return BufferMode::kCopy;
}

ZeroCopy zero_copy(const abi::DevInfo& info) {
  if ((info.flags & abi::kFlagAutoBufReg) != 0) return ZeroCopy::kAutomatic;
  if ((info.flags & abi::kFlagSupportZeroCopy) != 0) return ZeroCopy::kExplicit;
  return ZeroCopy::kNone;
}

static std::unique_ptr<internal::QueueBatch> make_batch(const DeviceNode& node, BufferMode mode,
                                                        bool registers) {
  if ((node.info().flags & abi::kFlagBatchIo) == 0) return nullptr;
  auto batch = std::make_unique<internal::QueueBatch>();
  if (mode == BufferMode::kCopy) {
    batch->flags = abi::kBatchHasBufAddr;
  } else {
    batch->element_bytes = offsetof(abi::BatchElement, buf_addr);
    batch->flags = registers ? abi::kBatchAutoBufRegFallback : 0;
  }
  batch->prepared =
      std::make_unique<std::byte[]>(size_t{node.info().queue_depth} * batch->element_bytes);
  return batch;
}

Queue::Queue(Ring& ring, std::shared_ptr<DeviceNode> node, uint16_t index, Backend& backend,
             Slot* slots, uint16_t ring_slot, int file_slot, int buffer_slot)
    : ring_(ring),
      node_(std::move(node)),
      backend_(&backend),
      descriptors_(node_->descriptors(index)),
      slots_(slots),
      mode_(buffer_mode(node_->info())),
      zero_copy_(ublk::zero_copy(node_->info())),
      index_(index),
      depth_(node_->info().queue_depth),
      ring_slot_(ring_slot),
      file_slot_(file_slot),
      buffer_slot_(buffer_slot),
      buffer_size_(node_->info().max_io_buf_bytes),
      batch_(make_batch(*node_, mode_, buffer_slot != kNoZeroCopy)) {
  if (mode_ == BufferMode::kCopy) allocate_buffers();
  // Only addresses, until a write fails before it has a buffer.
  if (mode_ == BufferMode::kGetData) waste_ = std::make_unique<internal::Mapping>(buffer_size_);
}

Queue::~Queue() { free_buffers(); }

// ----------------------------------------------------------------- buffers --

void Queue::allocate_buffers() {
  std::byte* first = backend_->alloc_io_buffer(*this, 0, buffer_size_);
  if (first == nullptr) {
    buffers_ = std::make_unique<internal::Mapping>(depth_ * buffer_size_);
    return;
  }
  try {
    own_buffers_ = std::make_unique<std::byte*[]>(depth_);
  } catch (...) {
    backend_->free_io_buffer(*this, 0, first);
    throw;
  }
  own_buffers_[0] = first;
  try {
    for (uint16_t tag = 1; tag < depth_; ++tag) {
      own_buffers_[tag] = backend_->alloc_io_buffer(*this, tag, buffer_size_);
      if (own_buffers_[tag] == nullptr) throw std::bad_alloc();
    }
  } catch (...) {
    free_buffers();
    throw;
  }
}

void Queue::free_buffers() {
  buffers_.reset();
  waste_.reset();
  if (own_buffers_ == nullptr) return;
  for (uint16_t tag = 0; tag < depth_; ++tag)
    if (own_buffers_[tag] != nullptr) backend_->free_io_buffer(*this, tag, own_buffers_[tag]);
  own_buffers_.reset();
}

std::byte* Queue::tag_buffer(uint16_t tag) const {
  if (mode_ != BufferMode::kCopy) return nullptr;
  return buffers_ != nullptr ? buffers_->data() + tag * buffer_size_ : own_buffers_[tag];
}

void Queue::replace_io_buffer(uint16_t tag, std::byte* buffer) {
  own_buffers_[tag] = buffer;
  slots_[tag].buffer = buffer;  // what the commit gives the kernel for the next request
}

void Queue::prepare_copy(io_uring_sqe& sqe, const io_uring& uring, const Request& request,
                         void* memory, uint32_t length, uint32_t offset) const {
  const bool fixed = file_slot_ >= 0 && &uring == ring_.uring();
  const int fd = fixed ? file_slot_ : node_->fd();
  const uint64_t position = abi::user_copy_offset(index_, request.tag(), offset);
  if (request.op() == Operation::kWrite)
    io_uring_prep_read(&sqe, fd, memory, length, position);
  else
    io_uring_prep_write(&sqe, fd, memory, length, position);
  if (fixed) sqe.flags |= IOSQE_FIXED_FILE;
}

// -------------------------------------------------------- fetch and commit --

uint64_t Queue::registration(uint16_t tag) const {
  if (zero_copy_ != ZeroCopy::kAutomatic) return 0;
  const int slot = buffer_slot_ == kTableIsFull ? buffer_slot_ : buffer_slot_ + tag;
  return static_cast<uint64_t>(slot) | abi::kAutoBufRegFallback;
}

bool Queue::place_command(abi::IoOp op, const abi::IoCmd& payload, uint64_t user_data,
                          uint8_t flags) {
  io_uring_sqe* sqe = ring_.get_sqe();
  if (sqe == nullptr) return false;
  const bool fixed = file_slot_ >= 0;
  if (fixed) flags |= IOSQE_FIXED_FILE;
  internal::prepare_io_command(*sqe, fixed ? file_slot_ : node_->fd(), flags, op, payload,
                               registration(payload.tag), user_data);
  if (node_->driver().redirects()) node_->driver().redirect(*ring_.uring(), *sqe);
  return true;
}

bool Queue::submit_command(abi::IoOp op, uint16_t tag, int result, uint64_t address) {
  const abi::IoCmd payload = {.q_id = index_, .tag = tag, .result = result, .addr = address};
  if (!place_command(op, payload,
                     internal::make_user_data(internal::CommandKind::kTag, ring_slot_, tag), 0))
    return false;
  ++with_kernel_;
  return true;
}

void Queue::fetch_all() {
  if (batch_ != nullptr) {
    prepare_batch();
    return;
  }
  for (uint16_t tag = 0; tag < depth_; ++tag)
    if (!submit_command(abi::IoOp::kFetchReq, tag, 0, reinterpret_cast<uint64_t>(tag_buffer(tag))))
      backend_->failed(*this, tag, EBUSY);
}

void Queue::handle_cqe(uint16_t tag, int result) {
  --with_kernel_;
  if (slots_[tag].phase == Phase::kRegistering)
    data_registered(slots_[tag], result);
  else if (result != abi::kIoResOk && result != abi::kIoResNeedGetData)
    command_failed(tag, result);
  else if (slots_[tag].phase == Phase::kAwaitsData || slots_[tag].phase == Phase::kFailing)
    data_arrived(slots_[tag], result);
  else
    take_request(tag, result == abi::kIoResNeedGetData);
}

// Where the kernel could not touch the buffer, for want of memory, it has copied only a part of the
// data, and the descriptor has become shorter; or nothing, and then it has put the write back, and
// this is whatever the tag got next. Another write has come with kIoResNeedGetData.
void Queue::data_arrived(Slot& slot, int result) {
  const bool failing = slot.phase == Phase::kFailing;
  const abi::IoDesc& descriptor = descriptors_[slot.tag];
  const auto op = static_cast<Operation>(descriptor.op_flags & abi::kOpMask);
  if (result == abi::kIoResNeedGetData || op != Operation::kWrite) {
    if (!failing) backend_->buffer_done(*this, slot.tag, slot.buffer);
    take_request(slot.tag, result == abi::kIoResNeedGetData);
    return;
  }
  const bool complete = descriptor.nr_sectors == slot.nr_sectors;
  slot.phase = Phase::kServing;
  if (!failing && complete) {
    hand_over(slot);
    return;
  }
  if (failing)
    waste_->discard(0, waste_->size());
  else
    slot.result = -EIO;
  ++in_flight_;
  ++ring_.in_flight_;
  commit(slot);
}

void Queue::take_request(uint16_t tag, bool wants_buffer) {
  Slot& slot = slots_[tag];
  // Acquire: what the thread that has committed the tag's last request did with it is done.
  static_cast<void>(slot.word.load(std::memory_order_acquire));
  slot.ring = &ring_;
  slot.queue = this;
  slot.tag = tag;
  slot.buffer = tag_buffer(tag);
  slot.start_sector = descriptors_[tag].start_sector;
  slot.op_flags = descriptors_[tag].op_flags;
  slot.nr_sectors = descriptors_[tag].nr_sectors;
  slot.phase = wants_buffer ? Phase::kNeedsBuffer : Phase::kServing;
  if (zero_copy_ == ZeroCopy::kExplicit && slot.has_data())
    register_data(slot);
  else
    hand_over(slot);
}

void Queue::hand_over(Slot& slot) {
  ++in_flight_;
  ++ring_.in_flight_;
  // Release: another thread that gets the id by any way, and whose exchange acquires this word,
  // sees the slot filled in.
  slot.word.store(Slot::make_word(slot.generation(), SlotState::kServer),
                  std::memory_order_release);
  if (slot.phase == Phase::kNeedsBuffer)
    backend_->need_buffer(Request(&slot));
  else
    backend_->submit(Request(&slot));
}

void Queue::command_failed(uint16_t tag, int error) {
  Slot& slot = slots_[tag];
  if (slot.phase == Phase::kAwaitsData) backend_->buffer_done(*this, tag, slot.buffer);
  slot.phase = Phase::kServing;
  if (error != -ENODEV) backend_->failed(*this, tag, error < 0 ? -error : EPROTO);
  if (with_kernel_ == 0 && in_flight_ == 0) ring_.queue_stopped(*this);
}

// The kernel takes no commit of a write whose data it has offered and nobody has fetched: one that
// has failed for want of a buffer is fetched to memory that nobody reads.
void Queue::get_data(Slot& slot) {
  if (slot.phase == Phase::kNeedsBuffer) {
    slot.phase = Phase::kFailing;
    if (slot.result >= 0) slot.result = -EIO;
  }
  const std::byte* address = slot.phase == Phase::kFailing ? waste_->data() : slot.buffer;
  if (!submit_command(abi::IoOp::kNeedGetData, slot.tag, 0, reinterpret_cast<uint64_t>(address))) {
    ring_.defer(slot);
    return;
  }
  // Whoever still has the id must not complete the request meanwhile.
  give_to_kernel(slot);
}

void Queue::commit(Slot& slot) {
  int result = slot.checked_result();
  const void* address = mode_ == BufferMode::kUserCopy ? nullptr : slot.buffer;
  if (mode_ == BufferMode::kGetData && slot.op() == Operation::kRead && address == nullptr) {
    // The kernel wants an address with every read, also with one that has failed.
    if (result >= 0) result = -EIO;
    address = &slot;
  }
  if ((zero_copy_ == ZeroCopy::kExplicit && slot.is_registered() && !unregister_data(slot)) ||
      (batch_ != nullptr ? !commit_in_batch(slot, result)
                         : !submit_command(abi::IoOp::kCommitAndFetchReq, slot.tag, result,
                                           reinterpret_cast<uint64_t>(address)))) {
    ring_.defer(slot);
    return;
  }
  if (tells_of_commits_.load(std::memory_order_relaxed)) [[unlikely]]
    backend_->committing(*this, slot.tag, result);
  if (mode_ != BufferMode::kCopy && slot.buffer != nullptr) {
    if (mode_ == BufferMode::kGetData && slot.op() == Operation::kRead)
      ring_.release_after_submit(*this, slot.tag, slot.buffer);
    else
      backend_->buffer_done(*this, slot.tag, slot.buffer);
  }
  give_to_kernel(slot);
}

void Queue::give_to_kernel(Slot& slot) {
  --in_flight_;
  --ring_.in_flight_;
  slot.word.store(Slot::make_word(slot.generation() + 1, SlotState::kKernel),
                  std::memory_order_relaxed);
}

// -------------------------------------------------------- explicit zero copy --

void Queue::register_data(Slot& slot) {
  slot.phase = Phase::kRegistering;
  if (buffer_slot_ == kTableIsFull ||
      !submit_command(abi::IoOp::kRegisterIoBuf, slot.tag, 0,
                      static_cast<uint64_t>(buffer_slot_) + slot.tag))
    data_registered(slot, -ENOBUFS);
}

// Whatever the error, the kernel waits for the request, whose data can be copied.
void Queue::data_registered(Slot& slot, int result) {
  slot.phase = Phase::kServing;
  if (result != 0) slot.op_flags |= abi::kIoFlagNeedRegBuf;
  hand_over(slot);
}

// Needs no link to the commit that follows: the kernel executes both in their order as it takes
// them from the ring, and if it ever did not, the registration holds the request until it goes.
bool Queue::unregister_data(Slot& slot) {
  const abi::IoCmd payload = {.q_id = index_,
                              .tag = slot.tag,
                              .result = 0,
                              .addr = static_cast<uint64_t>(buffer_slot_) + slot.tag};
  const uint64_t user_data =
      internal::make_user_data(internal::CommandKind::kUnregister, ring_slot_, slot.tag);
  if (!place_command(abi::IoOp::kUnregisterIoBuf, payload, user_data, IOSQE_CQE_SKIP_SUCCESS))
    return false;
  slot.op_flags |= abi::kIoFlagNeedRegBuf;  // not again, if the commit has to wait for an SQE
  return true;
}

}  // namespace ublk
