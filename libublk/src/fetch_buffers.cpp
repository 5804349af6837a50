// SPDX-License-Identifier: MIT
#include "fetch_buffers.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "ublk/error.h"

namespace ublk::internal {

namespace {

// IORING_REGISTER_PBUF_STATUS and struct io_uring_buf_status, Linux 6.8; older than batch I/O.
constexpr unsigned kRegisterPbufStatus = 26;
struct BufferStatus {
  uint32_t buf_group;
  uint32_t head;
  uint32_t reserved[8];
};

}  // namespace

FetchBuffers::FetchBuffers(io_uring& uring)
    : uring_(uring),
      memory_(round_up_to_page(kBuffers * sizeof(io_uring_buf)) + kBuffers * kBufferSize),
      ring_(reinterpret_cast<io_uring_buf_ring*>(memory_.data())),
      buffers_(memory_.data() + round_up_to_page(kBuffers * sizeof(io_uring_buf))) {
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<uint64_t>(ring_);
  registration.ring_entries = kBuffers;
  registration.bgid = kGroup;
  if (const int rc = io_uring_register_buf_ring(&uring_, &registration, 0); rc < 0)
    throw Error(-rc, "io_uring_register_buf_ring");
  for (unsigned number = 0; number < kBuffers; ++number) give_back(number);
}

// Without success on another thread than the io_uring's; then it is about to end.
FetchBuffers::~FetchBuffers() { io_uring_unregister_buf_ring(&uring_, kGroup); }

const uint16_t* FetchBuffers::take(uint16_t number) {
  if (number >= kBuffers) return nullptr;
  kernel_has_.reset(number);
  return reinterpret_cast<const uint16_t*>(buffers_ + number * kBufferSize);
}

void FetchBuffers::give_back(uint16_t number) {
  kernel_has_.set(number);
  io_uring_buf_ring_add(ring_, buffers_ + number * kBufferSize, kBufferSize, number,
                        io_uring_buf_ring_mask(kBuffers), 0);
  io_uring_buf_ring_advance(ring_, 1);
}

void FetchBuffers::find_lost() {
  BufferStatus status{};
  status.buf_group = kGroup;
  if (syscall(SYS_io_uring_register, uring_.ring_fd, kRegisterPbufStatus, &status, 1) != 0) return;
  std::bitset<kBuffers> in_ring;
  for (auto at = static_cast<uint16_t>(status.head); at != ring_->tail; ++at)
    in_ring.set(ring_->bufs[at % kBuffers].bid % kBuffers);
  for (unsigned number = 0; number < kBuffers; ++number)
    if (kernel_has_[number] && !in_ring[number]) give_back(number);
}

}  // namespace ublk::internal
