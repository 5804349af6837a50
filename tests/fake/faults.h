// SPDX-License-Identifier: MIT
//
// Faults that a test asks of the fake driver:
//
//   driver.faults().fail(ControlOp::kSetParams, EINVAL);      // the next one
//   driver.faults().fail(IoOp::kFetchReq, EBUSY, 3);          // the third from now on
//   fake::Held start = driver.faults().hold(ControlOp::kStartDev);
//   ...                                                       // the command is lost, until:
//   start.release();                                          // the driver gets it, late
//
#ifndef UBLK_TESTS_FAKE_FAULTS_H
#define UBLK_TESTS_FAKE_FAULTS_H

#include <ublk/abi.h>

#include <chrono>
#include <functional>
#include <future>
#include <list>
#include <memory>

#include "command.h"
#include "loop.h"

namespace fake {

// A command that never gets to the driver, unless it is released. No cancellation ends it. Any
// thread; not to be used when the driver has ended.
class Held {
 public:
  // Whether it has come, within `timeout`.
  bool wait(std::chrono::milliseconds timeout) const;
  // Lets the driver execute it. Throws std::logic_error if it has not come.
  void release();
  // Answers it without the driver. Throws likewise.
  void answer(int result);

 private:
  friend class Faults;
  struct State {
    Command* command = nullptr;  // the loop's thread's
    std::promise<void> arrival;
    std::shared_future<void> arrived{arrival.get_future()};
  };
  Held(std::shared_ptr<State> state, Loop& loop, std::function<void(Command&)> execute)
      : state_(std::move(state)), loop_(&loop), execute_(std::move(execute)) {}

  Command& take();

  std::shared_ptr<State> state_;
  Loop* loop_;
  std::function<void(Command&)> execute_;
};

// Commands are counted from the call on: nth = 1 is the next of its kind. Any thread.
class Faults {
 public:
  // Answers with -error instead of executing. The request of a COMMIT ends with EIO.
  void fail(ublk::abi::ControlOp op, int error, unsigned nth = 1);
  void fail(ublk::abi::IoOp op, int error, unsigned nth = 1);
  // The next COMMIT_IO_CMDS takes only the first elements.
  void shorten_commit(unsigned elements);
  Held hold(ublk::abi::ControlOp op, unsigned nth = 1);
  Held hold(ublk::abi::IoOp op, unsigned nth = 1);
  // Whatever control command it is.
  Held hold_control(unsigned nth);
  // Forgets what has not happened yet.
  void clear();

 private:
  friend class Driver;
  struct Rule {
    std::function<bool(const Command&)> applies;
    unsigned nth;
    std::function<void(Command&)> act;
  };

  // `execute` and `refuse` run on the loop's thread.
  Faults(Loop& loop, std::function<void(Command&)> execute,
         std::function<void(Command&, int)> refuse);
  void add(std::function<bool(const Command&)> applies, unsigned nth,
           std::function<void(Command&)> act);
  Held hold(std::function<bool(const Command&)> applies, unsigned nth);
  bool take(Command& command);  // false: no rule is for it. On the loop's thread.

  Loop& loop_;
  const std::function<void(Command&)> execute_;
  const std::function<void(Command&, int)> refuse_;
  std::list<Rule> rules_;  // the loop's thread's
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_FAULTS_H
