// SPDX-License-Identifier: MIT
#include "control_commands.h"

#include <utility>

namespace ublk_runner {

ControlCommands::ControlCommands(const MainContext& context, ublk::Driver& driver)
    : context_(context),
      control_(driver),
      readable_(context.when_readable(control_.fd(), [this] { control_.dispatch(); })),
      features_(control_.features()) {}

Task<ublk::Command> ControlCommands::run(ublk::Command command, Milliseconds deadline) {
  Semaphore::Permit slot = co_await slots_.acquire();
  const Completion<Answer> answer;
  control_.submit(std::move(command), deadline, [answer](int result, const ublk::Command& ended) {
    answer.settle(Answer{result, ended});
  });
  co_await answer.within(context_, kQuick);
  slot.give_back();
  // One that the kernel had no memory for when it was submitted would wait for the next one.
  for (;;) {
    const bool answered = co_await answer.within(context_, kResubmit);
    if (answered) break;
    control_.dispatch();
  }
  Answer ended = co_await answer;
  if (ended.result < 0) throw ublk::Control::error(ended.result, ended.command);
  co_return std::move(ended.command);
}

}  // namespace ublk_runner
