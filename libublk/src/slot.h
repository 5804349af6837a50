// SPDX-License-Identifier: MIT
// A tag's place in the server; the diagram of its life is in ublk/request.h.
#ifndef UBLK_SLOT_H
#define UBLK_SLOT_H

#include <atomic>
#include <cstdint>

#include "ublk/abi.h"
#include "ublk/ring.h"

namespace ublk::internal {

enum class SlotState : uint32_t { kKernel = 0, kServer = 1, kCompleted = 2 };

// All zero is a valid, idle slot: memory for tags that never see a request is never touched.
struct alignas(64) Slot {
  static constexpr unsigned kIdShift = 48;  // user-space addresses have no more bits
  static constexpr uint32_t kStateBits = 2;

  // Generation (16 bits, counts the tag's requests) above the SlotState.
  std::atomic<uint32_t> word;
  int32_t result;    // state completed
  Ring* ring;        // set by the first request; valid as long as the ring
  Queue* queue;      // valid in states server and completed
  Slot* next;        // state completed: the ring's list
  abi::IoDesc desc;  // a copy, since the kernel's own is shared memory
  uint16_t tag;

  static constexpr uint32_t make_word(uint32_t generation, SlotState state) {
    return (generation & 0xffff) << kStateBits | static_cast<uint32_t>(state);
  }
  uint32_t generation() const { return word.load(std::memory_order_relaxed) >> kStateBits; }

  uint64_t id() const {
    return uint64_t{generation()} << kIdShift | reinterpret_cast<uint64_t>(this);
  }
  static Slot* from_id(uint64_t id) {
    return reinterpret_cast<Slot*>(id & ((uint64_t{1} << kIdShift) - 1));
  }
  static uint32_t generation_of(uint64_t id) { return static_cast<uint32_t>(id >> kIdShift); }
};
static_assert(sizeof(Slot) == 64);

}  // namespace ublk::internal

#endif  // UBLK_SLOT_H
