// SPDX-License-Identifier: MIT
//
// Runs a check in a process of its own, so that a handler that crashes or hangs is a finding and
// not the end of the tool.
#ifndef UBLK_CHECK_CHILD_H
#define UBLK_CHECK_CHILD_H

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace ublk_check {

// What a check has found. Without findings and `skipped` it has passed.
struct Result {
  std::vector<std::string> findings;  // what is wrong with the handler
  std::vector<std::string> notes;     // what there is to know
  std::vector<std::string> log;       // what runner and handler have said
  std::string skipped;                // why it does not apply
};

// How a check tells its parent. Every line is on its way when a call returns, whatever becomes of
// the process. Any thread.
class Reporter {
 public:
  explicit Reporter(int fd) : fd_(fd) {}

  void finding(const std::string& text) const { send('F', text); }
  void note(const std::string& text) const { send('N', text); }
  void skip(const std::string& text) const { send('S', text); }
  // What is being done, for the report of a crash or hang.
  void doing(const std::string& text) const { send('D', text); }
  // Says what hangs, and ends the process: nothing could be ended in order.
  [[noreturn]] void hung(const std::string& text) const;
  // Ends the process as a check does that has come to its end; any other end is a finding.
  [[noreturn]] void end() const;

  int fd() const { return fd_; }

 private:
  void send(char kind, const std::string& text) const;

  const int fd_;
};

// Calls `check` in a child of this process, which must have one thread. The child is killed after
// `limit`. What `check` throws is a finding.
Result run_in_child(const std::function<void(const Reporter&)>& check,
                    std::chrono::milliseconds limit);

}  // namespace ublk_check

#endif  // UBLK_CHECK_CHILD_H
