// SPDX-License-Identifier: MIT
#include "ublk/request.h"

#include <unistd.h>

#include <algorithm>

#include "slot.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

namespace ublk {

using internal::Phase;
using internal::Slot;
using internal::SlotState;

Operation Request::op() const { return slot_->op(); }
uint64_t Request::sector() const { return slot_->start_sector; }
uint32_t Request::sectors() const { return slot_->nr_sectors; }
uint64_t Request::offset() const { return slot_->start_sector * abi::kSectorSize; }
uint32_t Request::length() const {
  return static_cast<uint32_t>(std::min<uint64_t>(slot_->length(), UINT32_MAX));
}
uint32_t Request::op_flags() const { return slot_->op_flags & ~abi::kOpMask; }
uint16_t Request::tag() const { return slot_->tag; }
Queue& Request::queue() const { return *slot_->queue; }

std::byte* Request::buffer() const { return slot_->has_data() ? slot_->buffer : nullptr; }

int Request::buffer_index() const {
  const int first = slot_->queue->buffer_slot_;
  return first != Queue::kNoZeroCopy && slot_->is_registered() ? first + slot_->tag : -1;
}

void Request::set_buffer(std::byte* buffer) { slot_->buffer = buffer; }

bool Request::provide_buffer(std::byte* buffer) {
  return slot_ != nullptr && provide_buffer(release(), buffer);
}

// Further than any request's end begins the data of the next tag.
ssize_t Request::read_data(void* to, size_t length, uint32_t offset) const {
  if (offset > this->length()) return -EINVAL;
  length = std::min<size_t>(length, this->length() - offset);
  if (length == 0) return 0;
  const Queue& queue = *slot_->queue;
  const ssize_t n = pread(queue.node().fd(), to, length,
                          static_cast<off_t>(abi::user_copy_offset(queue.index(), tag(), offset)));
  return n < 0 ? -errno : n;
}

ssize_t Request::write_data(const void* from, size_t length, uint32_t offset) const {
  if (offset > this->length()) return -EINVAL;
  length = std::min<size_t>(length, this->length() - offset);
  if (length == 0) return 0;
  const Queue& queue = *slot_->queue;
  const ssize_t n = pwrite(queue.node().fd(), from, length,
                           static_cast<off_t>(abi::user_copy_offset(queue.index(), tag(), offset)));
  return n < 0 ? -errno : n;
}

uint64_t Request::id() const { return slot_->id(); }

bool Request::complete(int result, CompletionBatch* batch) {
  Slot* slot = std::exchange(slot_, nullptr);
  if (slot == nullptr) return false;
  if (!slot->ring->on_own_thread()) return complete(slot->id(), result, batch);
  // No exchange is needed here: the handle is the only owner. Only who gave out id() without
  // release() can have been overtaken, and that is seen here.
  const uint32_t word = slot->word.load(std::memory_order_acquire);
  if (word != Slot::make_word(slot->generation(), SlotState::kServer)) return false;
  slot->result = result;
  slot->ring->commit_or_get_data(*slot);
  return true;
}

// One exchange decides who ends the backend's hold of a request. Acquire: whoever wins sees the
// slot as the ring's thread filled it in, however the id came here.
static Slot* win(uint64_t id) {
  Slot* slot = Slot::from_id(id);
  uint32_t expected = Slot::make_word(Slot::generation_of(id), SlotState::kServer);
  const uint32_t completed = Slot::make_word(Slot::generation_of(id), SlotState::kCompleted);
  return slot->word.compare_exchange_strong(expected, completed, std::memory_order_acquire,
                                            std::memory_order_relaxed)
             ? slot
             : nullptr;
}

bool Request::complete(uint64_t id, int result, CompletionBatch* batch) {
  Slot* slot = win(id);
  if (slot == nullptr) return false;
  slot->result = result;
  slot->ring->route_completion(*slot, batch);
  return true;
}

bool Request::provide_buffer(uint64_t id, std::byte* buffer) {
  Slot* slot = win(id);
  if (slot == nullptr) return false;
  slot->buffer = buffer;
  slot->phase = Phase::kAwaitsData;
  slot->ring->route_completion(*slot, nullptr);
  return true;
}

}  // namespace ublk
