// SPDX-License-Identifier: MIT
//
// libublk's control commands for coroutines.
#ifndef UBLK_RUNNER_CONTROL_COMMANDS_H
#define UBLK_RUNNER_CONTROL_COMMANDS_H

#include <ublk/control.h>

#include "async.h"
#include "main_context.h"

namespace ublk_runner {

class ControlCommands {
 public:
  // Opens /dev/ublk-control and asks what the driver can do. Throws ublk::Error.
  ControlCommands(const MainContext& context, ublk::Driver& driver);

  // Runs a command and gives it back with its answer. Throws ublk::Error: what the kernel said, or
  // ETIMEDOUT once `deadline` has passed since the kernel got it.
  Task<ublk::Command> run(ublk::Command command,
                          Milliseconds deadline = ublk::Control::kDefaultDeadline);

  ublk::Driver& driver() const { return control_.driver(); }
  uint64_t features() const { return features_; }  // abi::kFlag*

 private:
  // Each command under way is a kernel thread, and ADD, START, STOP and DEL of hundreds of devices
  // take turns at the same few kernel locks and RCU grace periods: this many at once keep all of
  // them busy, more would only be threads.
  static constexpr size_t kMaxAtOnce = 32;
  // A command that takes longer waits for something (held I/O, an opener) and costs no CPU; it
  // makes room, so that hung commands hold up no other device's.
  static constexpr Milliseconds kQuick{1000};
  static constexpr Milliseconds kResubmit{1000};

  struct Answer {
    int result;
    ublk::Command command;
  };

  const MainContext context_;
  ublk::Control control_;
  Source readable_;
  Semaphore slots_{kMaxAtOnce};
  const uint64_t features_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_CONTROL_COMMANDS_H
