// SPDX-License-Identifier: MIT
// What queues with kFlagBatchIo need beside their tags.
#ifndef UBLK_BATCH_H
#define UBLK_BATCH_H

#include <liburing.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "fetch_buffers.h"
#include "ublk/abi.h"

namespace ublk::internal {

// Elements of one size, one behind the other, as the kernel takes them.
template <unsigned kMax>
struct BatchElements {
  uint16_t count = 0;
  alignas(8) std::array<std::byte, kMax * sizeof(abi::BatchElement)> bytes;

  bool full() const { return count == kMax; }
  void add(const abi::BatchElement& element, uint8_t element_bytes) {
    std::memcpy(&bytes[count * size_t{element_bytes}], &element, element_bytes);
    ++count;
  }
  abi::BatchElement at(unsigned index, uint8_t element_bytes) const {
    abi::BatchElement element{};
    std::memcpy(&element, &bytes[index * size_t{element_bytes}], element_bytes);
    return element;
  }
};

// The elements of a COMMIT_IO_CMDS, from its first one to its CQE. As long as its SQE is not
// submitted, more can be added.
struct CommitBlock {
  static constexpr unsigned kMaxElements = 64;
  BatchElements<kMaxElements> elements;
  io_uring_sqe* sqe = nullptr;
  unsigned position = 0;  // of the SQE, counted as the submission queue's head and tail
  uint16_t number = 0;

  bool is_submitted(const io_uring& uring) const {
    return static_cast<int>(position - IO_URING_READ_ONCE(*uring.sq.khead)) < 0;
  }
};

// Shared by the queues of a ring.
struct RingBatch {
  explicit RingBatch(io_uring& uring) : fetched(uring) {}

  // Empty; nullptr: no memory.
  CommitBlock* take();
  void give_back(CommitBlock& block) { unused.push_back(&block); }

  FetchBuffers fetched;
  std::vector<std::unique_ptr<CommitBlock>> blocks;  // by number
  std::vector<CommitBlock*> unused;                  // has room for all
};

// The state of one queue.
struct QueueBatch {
  enum class Fetch : uint8_t {
    kNone,       // the queue is new, or stops
    kSubmitted,  // with the kernel
    kAgain,      // to be submitted again
  };
  uint8_t element_bytes = sizeof(abi::BatchElement);
  uint16_t flags = 0;  // abi::kBatch*
  Fetch fetch = Fetch::kNone;
  unsigned outstanding = 0;               // PREP and COMMIT commands that are
  CommitBlock* open = nullptr;            // the last one
  std::unique_ptr<std::byte[]> prepared;  // elements of PREP, until its CQE
};

}  // namespace ublk::internal

#endif  // UBLK_BATCH_H
