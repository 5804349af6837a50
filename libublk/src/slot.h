// SPDX-License-Identifier: MIT
// A tag's place in the server.
#ifndef UBLK_SLOT_H
#define UBLK_SLOT_H

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "ublk/abi.h"
#include "ublk/ring.h"

namespace ublk::internal {

// How far a write in get-data mode is, or a read or write with explicit zero copy; all others are
// always served.
enum class Phase : uint8_t {
  kServing,      // the backend has the request, with its data
  kRegistering,  // explicit zero copy: REGISTER_IO_BUF is with the kernel
  kNeedsBuffer,  // the backend has it and is to provide a buffer
  kAwaitsData,   // NEED_GET_DATA is, or is about to be, with the kernel
  kFailing,      // likewise, but it failed before: the kernel takes no commit without it
};

enum class SlotState : uint32_t { kKernel = 0, kServer = 1, kCompleted = 2 };

// The request that a tag now carries, and its way back. The state says who may touch the rest:
//
//            CQE                 complete()             commit prepared
//   kernel ------> server (N) ---------------> kernel, generation N + 1     on the ring's thread
//                    |                            ^
//                    +--------> completed --------+                         from another thread,
//                       (exchanged: one wins)   list drained                by the ring's list
//
// kernel: the ring's thread alone, also while it has the request's data registered (explicit zero
// copy). server: whoever holds the Request. completed: the slot is a node of the ring's list until
// the ring's thread takes it out.
//
// With kFlagBatchIo another thread may commit: then the state is kernel from complete() on, and the
// slot is that thread's until its CompletionBatch is flushed. What the kernel does not take goes
// into the ring's list in that state.
//
// All zero is a valid, idle slot: memory for tags that never see a request is never touched.
struct alignas(64) Slot {
  static constexpr unsigned kIdShift = 48;  // user-space addresses have no more bits
  static constexpr uint32_t kStateBits = 2;

  // Generation (16 bits, counts the tag's requests) above the SlotState.
  std::atomic<uint32_t> word;
  int32_t result;     // state completed
  Ring* ring;         // set by the first request; valid as long as the ring
  Queue* queue;       // valid in states server and completed
  Slot* next;         // state completed: the ring's list
  std::byte* buffer;  // the data of a read or write; nullptr: the backend has none yet, or copies

  // Of the descriptor, a copy, since the kernel's own is shared memory. With explicit zero copy
  // kIoFlagNeedRegBuf is set by the library, as it is by a kernel that registers by itself.
  uint64_t start_sector;
  uint32_t op_flags;
  uint32_t nr_sectors;

  uint16_t tag;
  Phase phase;

  static constexpr uint32_t make_word(uint32_t generation, SlotState state) {
    return (generation & 0xffff) << kStateBits | static_cast<uint32_t>(state);
  }
  uint32_t generation() const { return word.load(std::memory_order_relaxed) >> kStateBits; }

  Operation op() const { return static_cast<Operation>(op_flags & abi::kOpMask); }
  bool has_data() const { return op() == Operation::kRead || op() == Operation::kWrite; }
  // With zero copy: its data is in the ring's buffer table.
  bool is_registered() const { return has_data() && (op_flags & abi::kIoFlagNeedRegBuf) == 0; }
  uint64_t length() const { return uint64_t{nr_sectors} * abi::kSectorSize; }

  // The result as the kernel can take it: for a read or write all of it or an error, since kernels
  // differ in what they make of a short one, and warn about a long one.
  int checked_result() const {
    constexpr int kMaxErrno = 4095;
    if (result < 0) return result >= -kMaxErrno ? result : -EIO;
    if (!has_data()) return 0;
    return static_cast<uint64_t>(result) == length() ? result : -EIO;
  }

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
