// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_BLOCK_SIGNALS_H
#define UBLK_RUNNER_BLOCK_SIGNALS_H

#include <pthread.h>

#include <csignal>

namespace ublk_runner {

// Blocks all signals on this thread while it lives. Threads made meanwhile inherit that, so signals
// reach the control thread alone.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t old_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BLOCK_SIGNALS_H
