// SPDX-License-Identifier: MIT
//
// Commands to /dev/ublk-control: add, start, stop and delete devices, and ask about them.
//
//   ublk::Control control;
//   auto features = control.features();
//   ublk::abi::DevInfo info = control.add({.nr_hw_queues = 1, .queue_depth = 64, ...});
//   control.set_params(info.dev_id, params);
//   ...                                        // a Device, its queues, see ublk/device.h
//   control.start(info.dev_id, getpid());
//
// Every command has a deadline, because the kernel can keep one for ever (a START whose queues are
// not served, a STOP behind held I/O). A command that outlives it is cancelled and reported as
// ETIMEDOUT at once; if the kernel completes it nevertheless, later, its memory is still there, and
// an ADD that comes too late is undone. Commands run side by side and hold up no other.
//
// Two ways to call, over the same commands: run(), and for the usual ones functions named after
// them, wait and throw Error; submit() returns at once, and dispatch() calls back.
//
// Threads: a Control belongs to the thread that made it.
#ifndef UBLK_CONTROL_H
#define UBLK_CONTROL_H

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ublk/abi.h"
#include "ublk/driver.h"
#include "ublk/error.h"
#include "ublk/export.h"

namespace ublk {

// One control command with the memory that the kernel reads and writes meanwhile.
class UBLK_EXPORT Command {
 public:
  // `info` describes the wanted device; the answer has what the kernel made of it: unknown flags
  // cleared, queues and buffer size clamped.
  static Command add(const abi::DevInfo& info);
  static Command del(uint32_t id);        // waits until nobody has /dev/ublkcN
  static Command del_async(uint32_t id);  // does not wait; Linux 6.9
  // `server_pid`: the process that opened /dev/ublkcN. Ends when all tags are fetched.
  static Command start(uint32_t id, int server_pid);
  static Command stop(uint32_t id);      // waits for the I/O in flight
  static Command try_stop(uint32_t id);  // EBUSY while the disk is open; needs kFlagSafeStopDev
  static Command set_params(uint32_t id, const abi::Params& params);
  static Command get_params(uint32_t id);
  static Command get_info(uint32_t id);
  static Command get_features();
  static Command get_queue_affinity(uint32_t id, uint16_t queue);
  static Command start_recovery(uint32_t id);
  static Command end_recovery(uint32_t id, int server_pid);
  static Command update_size(uint32_t id, uint64_t sectors);  // needs kFlagUpdateSize
  static Command quiesce(uint32_t id, uint64_t timeout_ms);   // needs kFlagQuiesce; drain first

  abi::ControlOp op() const { return op_; }
  uint32_t device_id() const { return device_id_; }
  const char* name() const;  // "START_DEV"

  // The answer of a command that has succeeded.
  abi::DevInfo info() const;           // add, get_info
  abi::Params params() const;          // get_params, without what SET refuses
  uint64_t features() const;           // get_features: abi::kFlag*
  std::vector<bool> affinity() const;  // get_queue_affinity: by CPU number

 private:
  friend class Control;
  Command(abi::ControlOp op, uint32_t device_id, size_t buffer_size, uint64_t data = 0);

  abi::ControlOp op_;
  uint32_t device_id_;
  uint64_t data_;
  std::vector<unsigned char> buffer_;
};

class UBLK_EXPORT Control {
 public:
  using Milliseconds = std::chrono::milliseconds;
  static constexpr Milliseconds kDefaultDeadline{30'000};

  // `result` is 0 or -errno (-ETIMEDOUT: the deadline has passed). Runs inside dispatch().
  using Callback = std::function<void(int result, const Command& command)>;

  // Throws Error: no /dev/ublk-control (is ublk_drv loaded?), no permission, no io_uring.
  explicit Control(Driver& driver = Driver::kernel());
  ~Control();  // cancels what is under way; callbacks are not called
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // Starts a command. `callback` is called exactly once, by dispatch(). Throws Error EBUSY if the
  // kernel takes nothing more; then nothing was started.
  void submit(Command command, Milliseconds deadline, Callback callback);
  // Readable when dispatch() has something to do. Stays the same and is not to be closed.
  int fd() const;
  // Calls back for all that has ended. Never blocks. Callbacks may submit.
  void dispatch();
  // Commands that have not called back yet.
  size_t pending() const;

  // Starts a command and dispatches until it has ended. Throws Error.
  Command run(Command command, Milliseconds deadline = kDefaultDeadline);

  uint64_t features(Milliseconds deadline = kDefaultDeadline);
  abi::DevInfo add(const abi::DevInfo& info, Milliseconds deadline = kDefaultDeadline);
  void del(uint32_t id, Milliseconds deadline = kDefaultDeadline);
  void del_async(uint32_t id, Milliseconds deadline = kDefaultDeadline);
  void start(uint32_t id, int server_pid, Milliseconds deadline = kDefaultDeadline);
  void stop(uint32_t id, Milliseconds deadline = kDefaultDeadline);
  void set_params(uint32_t id, const abi::Params& params, Milliseconds deadline = kDefaultDeadline);
  abi::Params params(uint32_t id, Milliseconds deadline = kDefaultDeadline);
  abi::DevInfo info(uint32_t id, Milliseconds deadline = kDefaultDeadline);
  std::vector<bool> queue_affinity(uint32_t id, uint16_t queue,
                                   Milliseconds deadline = kDefaultDeadline);

  // The Error that describes the failure of `command`; for callers of submit().
  static Error error(int result, const Command& command);

  Driver& driver() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ublk

#endif  // UBLK_CONTROL_H
