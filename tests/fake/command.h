// SPDX-License-Identifier: MIT
// A command of the server on its way to the fake driver.
#ifndef UBLK_TESTS_FAKE_COMMAND_H
#define UBLK_TESTS_FAKE_COMMAND_H

#include <liburing.h>
#include <sys/types.h>
#include <ublk/abi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fake {

class RingPort;

// Addresses come as numbers in the kernel's interface.
template <class T>
T* pointer_to(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

enum class CommandKind : uint8_t { kControl, kIo, kCancel };

// Filled in by the thread that submits, read by the driver's thread, which gets its address as a
// message in a ring. The message itself orders nothing that ThreadSanitizer could see: `sent` does.
struct Command {
  std::atomic<bool> sent{false};

  RingPort* port = nullptr;
  uint64_t user_data = 0;
  pid_t thread = 0;  // that submitted it: a tag's daemon

  CommandKind kind = CommandKind::kControl;
  bool valid = true;     // false: in a form that the kernel refuses with EINVAL
  bool silent = false;   // success has no CQE
  uint32_t op = 0;       // abi::ControlOp or abi::IoOp
  uint32_t device = 0;   // of an I/O command: whose node it was sent to
  uint64_t cancels = 0;  // kCancel: the user_data of the command to end
  ublk::abi::CtrlCmd control{};
  ublk::abi::IoCmd io{};
  uint64_t registration = 0;    // of an I/O command: sqe->addr, for kFlagAutoBufReg
  std::vector<std::byte> data;  // of a read that is committed, taken when the command was submitted

  // Of batch I/O commands, in place of `io`.
  ublk::abi::BatchIo batch{};
  struct Element {
    ublk::abi::BatchElement element;
    std::vector<std::byte> data;
  };
  std::vector<Element> elements;
  io_uring_buf_ring* buffers = nullptr;  // FETCH

  Command* next = nullptr;  // in the port's list of unused ones

  ublk::abi::ControlOp control_op() const { return static_cast<ublk::abi::ControlOp>(op); }
  bool is_batch() const {
    using ublk::abi::IoOp;
    return kind == CommandKind::kIo && op >= static_cast<uint32_t>(IoOp::kPrepIoCmds) &&
           op <= static_cast<uint32_t>(IoOp::kFetchIoCmds);
  }
  ublk::abi::IoOp io_op() const { return static_cast<ublk::abi::IoOp>(op); }
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_COMMAND_H
