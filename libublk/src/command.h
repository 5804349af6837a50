// SPDX-License-Identifier: MIT
// How an I/O command looks in an SQE, and what its user_data says.
#ifndef UBLK_COMMAND_H
#define UBLK_COMMAND_H

#include <liburing.h>

#include <cstdint>
#include <cstring>

#include "ublk/abi.h"

namespace ublk::internal {

// user_data of the library: the mark 0xb700, 16 bits of zero, the queue's number in its ring, the
// tag.
constexpr uint64_t kUserDataMark = uint64_t{0xb700} << 48;
constexpr uint64_t make_user_data(uint16_t ring_slot, uint16_t tag) {
  return kUserDataMark | uint64_t{ring_slot} << 16 | tag;
}
// No queue has this: the poll of the eventfd.
constexpr uint64_t kWakeupUserData = kUserDataMark | uint64_t{1} << 32;

// `registration`: with kFlagAutoBufReg where to register the next request's data; else 0.
// Every field is set: an SQE of the ring holds what its last user left in it.
inline void prepare_io_command(io_uring_sqe& sqe, int fd, uint8_t flags, abi::IoOp op,
                               const abi::IoCmd& payload, uint64_t registration,
                               uint64_t user_data) {
  sqe.opcode = IORING_OP_URING_CMD;
  sqe.flags = flags;
  sqe.ioprio = 0;
  sqe.fd = fd;
  sqe.off = static_cast<uint32_t>(op);  // cmd_op and its padding
  sqe.addr = registration;
  sqe.len = 0;
  sqe.rw_flags = 0;
  sqe.user_data = user_data;
  sqe.buf_index = 0;
  sqe.personality = 0;
  sqe.file_index = 0;
  std::memcpy(sqe.cmd, &payload, sizeof(payload));
}

}  // namespace ublk::internal

#endif  // UBLK_COMMAND_H
