// SPDX-License-Identifier: MIT
// How an I/O command looks in an SQE, and what its user_data says.
#ifndef UBLK_COMMAND_H
#define UBLK_COMMAND_H

#include <liburing.h>

#include <cstdint>
#include <cstring>

#include "ublk/abi.h"

namespace ublk::internal {

// user_data of the library: the mark 0xb700, 16 bits of CommandKind, the queue's number in its
// ring, and which of its commands.
enum class CommandKind : uint16_t {
  kTag = 0,         // the tag
  kWakeup = 1,      // the poll of the eventfd, of no queue
  kBatch = 2,       // the number of a CommitBlock, or kPrepare or kFetch
  kUnregister = 3,  // the tag; only an error has a CQE
};
constexpr uint16_t kPrepare = UINT16_MAX;
constexpr uint16_t kFetch = UINT16_MAX - 1;

constexpr uint64_t kUserDataMark = uint64_t{0xb700} << 48;
constexpr uint64_t make_user_data(CommandKind kind, uint16_t ring_slot, uint16_t which) {
  return kUserDataMark | static_cast<uint64_t>(kind) << 32 | uint64_t{ring_slot} << 16 | which;
}
constexpr uint64_t kWakeupUserData = make_user_data(CommandKind::kWakeup, 0, 0);

// Every field is set: an SQE of the ring holds what its last user left in it. `payload`: IoCmd or
// BatchIo, both of 16 bytes.
template <class Payload>
void prepare_io_command(io_uring_sqe& sqe, int fd, uint8_t flags, abi::IoOp op,
                        const Payload& payload, uint64_t address, uint64_t user_data) {
  sqe.opcode = IORING_OP_URING_CMD;
  sqe.flags = flags;
  sqe.ioprio = 0;
  sqe.fd = fd;
  sqe.off = static_cast<uint32_t>(op);  // cmd_op and its padding
  sqe.addr = address;
  sqe.len = 0;
  sqe.rw_flags = 0;
  sqe.user_data = user_data;
  sqe.buf_index = 0;
  sqe.personality = 0;
  sqe.file_index = 0;
  std::memcpy(sqe.cmd, &payload, sizeof(payload));
}

// Makes of a FETCH_IO_CMDS what stays and takes a buffer of the group for each CQE.
inline void make_multishot(io_uring_sqe& sqe, uint16_t buffer_group) {
  constexpr uint32_t kUringCmdMultishot = 1u << 1;  // IORING_URING_CMD_MULTISHOT, Linux 6.18
  sqe.flags |= IOSQE_BUFFER_SELECT;
  sqe.rw_flags = kUringCmdMultishot;
  sqe.buf_group = buffer_group;
}

}  // namespace ublk::internal

#endif  // UBLK_COMMAND_H
