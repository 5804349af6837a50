// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_EXIT_STATUS_H
#define UBLK_RUNNER_EXIT_STATUS_H

namespace ublk_runner {

// How ublk-runner(8) ends. Part of its interface: service files and scripts go by it.
enum ExitStatus {
  kExitOk = 0,          // stopped as asked
  kExitUsage = 1,       // bad options or configuration: nothing was started
  kExitNoDevice = 2,    // no device could be served: no driver, say
  kExitSomeFailed = 3,  // some devices could not be started; the others were served
  kExitTryAgain = 4,    // as 2, but a later start may go on: one before it is not quite gone
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_EXIT_STATUS_H
