// SPDX-License-Identifier: MIT
//
// How a process gets into the background without its caller losing sight of it: the child does all
// the work from the start, since a ublk device belongs to the process that opened it, and the
// parent waits until the child says what has become of it.
#ifndef UBLK_RUNNER_BACKGROUND_H
#define UBLK_RUNNER_BACKGROUND_H

#include <ublk/unique_fd.h>

#include <optional>

namespace ublk_runner {

class Background {
 public:
  // Forks; to be called while the process has one thread. Returns in the child alone: the parent
  // ends with the status that the child gives to detach(), or with the child's exit status if that
  // ends before. Until then the child is in the parent's session, gets its Ctrl-C, and is sent
  // SIGTERM if the parent goes. Throws std::system_error.
  Background();

  // In the child, once: leaves the session, the working directory and the terminal, sends the log
  // to the system log if there is one, and lets the parent end with `status`.
  void detach(int status);

 private:
  ublk::UniqueFd parent_;  // a pipe's end
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BACKGROUND_H
