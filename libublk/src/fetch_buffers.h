// SPDX-License-Identifier: MIT
// Where the kernel writes the tags of new requests for the queues of a ring that fetch in batches.
#ifndef UBLK_FETCH_BUFFERS_H
#define UBLK_FETCH_BUFFERS_H

#include <liburing.h>

#include <bitset>
#include <cstddef>
#include <cstdint>

#include "mapping.h"
#include "ublk/abi.h"

namespace ublk::internal {

// A ring of provided buffers, see io_uring_register_buf_ring(3), registered in the io_uring under
// kGroup. A CQE of a fetch brings one, which is given back once its tags are read. For the ring's
// thread, on which the kernel takes buffers, too: inside io_uring_enter.
class FetchBuffers {
 public:
  static constexpr uint16_t kGroup = 0xb70;

  // Throws Error.
  explicit FetchBuffers(io_uring& uring);
  ~FetchBuffers();
  FetchBuffers(const FetchBuffers&) = delete;
  FetchBuffers& operator=(const FetchBuffers&) = delete;

  static uint16_t number_of(uint32_t cqe_flags) {
    return static_cast<uint16_t>(cqe_flags >> IORING_CQE_BUFFER_SHIFT);
  }
  // A CQE has brought that buffer: the tags in it. nullptr: there is no such buffer.
  const uint16_t* take(uint16_t number);
  void give_back(uint16_t number);

  // If the completion queue is full, the kernel takes a buffer and then has no CQE to name it in.
  // Gives those back, once all CQEs have been seen.
  void find_lost();

  const io_uring_buf_ring* ring() const { return ring_; }

 private:
  // Of one turn: as many queues can bring new requests, then the others' fetches end and start
  // again.
  static constexpr unsigned kBuffers = 256;
  static constexpr size_t kBufferSize = abi::kBatchMaxTags * sizeof(uint16_t);

  io_uring& uring_;
  const Mapping memory_;  // the ring, then the buffers
  io_uring_buf_ring* const ring_;
  std::byte* const buffers_;
  std::bitset<kBuffers> kernel_has_;
};

}  // namespace ublk::internal

#endif  // UBLK_FETCH_BUFFERS_H
