// SPDX-License-Identifier: MIT
#include "faults.h"

#include <stdexcept>
#include <utility>

namespace fake {

namespace abi = ublk::abi;

namespace {

template <class Op>
auto is(Op op) {
  return [op](const Command& command) { return command.op == static_cast<uint32_t>(op); };
}

}  // namespace

bool Held::wait(std::chrono::milliseconds timeout) const {
  return state_->arrived.wait_for(timeout) == std::future_status::ready;
}

Command& Held::take() {
  if (state_->command == nullptr) throw std::logic_error("the command to be held has not come");
  return *std::exchange(state_->command, nullptr);
}

void Held::release() {
  loop_->call([this] { execute_(take()); });
}

void Held::answer(int result) {
  loop_->call([this, result] { loop_->answer(take(), result); });
}

Faults::Faults(Loop& loop, std::function<void(Command&)> execute,
               std::function<void(Command&, int)> refuse)
    : loop_(loop), execute_(std::move(execute)), refuse_(std::move(refuse)) {}

void Faults::fail(abi::ControlOp op, int error, unsigned nth) {
  add(is(op), nth, [this, error](Command& command) { refuse_(command, error); });
}
void Faults::fail(abi::IoOp op, int error, unsigned nth) {
  add(is(op), nth, [this, error](Command& command) { refuse_(command, error); });
}
void Faults::shorten_commit(unsigned elements) {
  add(is(abi::IoOp::kCommitIoCmds), 1, [this, elements](Command& command) {
    if (command.elements.size() > elements) command.elements.resize(elements);
    execute_(command);
  });
}

Held Faults::hold(abi::ControlOp op, unsigned nth) { return hold(is(op), nth); }
Held Faults::hold(abi::IoOp op, unsigned nth) { return hold(is(op), nth); }

Held Faults::hold_control(unsigned nth) {
  return hold([](const Command& command) { return command.kind == CommandKind::kControl; }, nth);
}

void Faults::clear() {
  loop_.call([this] { rules_.clear(); });
}

Held Faults::hold(std::function<bool(const Command&)> applies, unsigned nth) {
  const auto state = std::make_shared<Held::State>();
  add(std::move(applies), nth, [state](Command& command) {
    state->command = &command;
    state->arrival.set_value();
  });
  return {state, loop_, execute_};
}

void Faults::add(std::function<bool(const Command&)> applies, unsigned nth,
                 std::function<void(Command&)> act) {
  loop_.call([&] { rules_.push_back({std::move(applies), nth, std::move(act)}); });
}

bool Faults::take(Command& command) {
  if (command.kind == CommandKind::kCancel) return false;
  auto due = rules_.end();
  for (auto rule = rules_.begin(); rule != rules_.end(); ++rule) {
    if (!rule->applies(command)) continue;
    if (rule->nth > 1)
      --rule->nth;
    else if (due == rules_.end())
      due = rule;
  }
  if (due == rules_.end()) return false;
  const auto act = std::move(due->act);
  rules_.erase(due);
  act(command);
  return true;
}

}  // namespace fake
