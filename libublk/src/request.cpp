// SPDX-License-Identifier: MIT
#include "ublk/request.h"

#include <algorithm>

#include "slot.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

namespace ublk {

using internal::Slot;
using internal::SlotState;

Operation Request::op() const {
  return static_cast<Operation>(slot_->desc.op_flags & abi::kOpMask);
}
uint64_t Request::sector() const { return slot_->desc.start_sector; }
uint32_t Request::sectors() const { return slot_->desc.nr_sectors; }
uint64_t Request::offset() const { return slot_->desc.start_sector * abi::kSectorSize; }
uint32_t Request::length() const {
  return static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{slot_->desc.nr_sectors} * abi::kSectorSize, UINT32_MAX));
}
uint32_t Request::op_flags() const { return slot_->desc.op_flags & ~abi::kOpMask; }
uint16_t Request::tag() const { return slot_->tag; }
Queue& Request::queue() const { return *slot_->queue; }

std::byte* Request::buffer() const {
  return op() == Operation::kRead || op() == Operation::kWrite ? slot_->queue->buffer_of(tag())
                                                               : nullptr;
}

uint64_t Request::id() const { return slot_->id(); }

bool Request::complete(int result) {
  Slot* slot = std::exchange(slot_, nullptr);
  if (slot == nullptr) return false;
  if (!slot->ring->on_own_thread()) return complete(slot->id(), result);
  // No exchange is needed here: the handle is the only owner. Only who gave out id() without
  // release() can have been overtaken, and that is seen here.
  const uint32_t word = slot->word.load(std::memory_order_acquire);
  if (word != Slot::make_word(slot->generation(), SlotState::kServer)) return false;
  slot->queue->commit(*slot, result);
  return true;
}

bool Request::complete(uint64_t id, int result) {
  Slot* slot = Slot::from_id(id);
  uint32_t expected = Slot::make_word(Slot::generation_of(id), SlotState::kServer);
  const uint32_t completed = Slot::make_word(Slot::generation_of(id), SlotState::kCompleted);
  // One exchange decides who completes the request. Acquire: whoever wins sees the slot as the
  // ring's thread filled it in, however the id came here.
  if (!slot->word.compare_exchange_strong(expected, completed, std::memory_order_acquire,
                                          std::memory_order_relaxed))
    return false;
  if (slot->ring->on_own_thread()) {
    slot->queue->commit(*slot, result);
  } else {
    slot->result = result;
    slot->ring->push_completed(*slot);
  }
  return true;
}

}  // namespace ublk
