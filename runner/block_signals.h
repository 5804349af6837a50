// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_BLOCK_SIGNALS_H
#define UBLK_RUNNER_BLOCK_SIGNALS_H

#include <pthread.h>

#include <csignal>

namespace ublk_runner {

// Blocks all signals on this thread while it lives. Threads made meanwhile inherit that, so signals
// reach the control thread alone. Not those of a thread's own faults: blocked, they end the process
// past whoever has a handler for them, as sanitizers have.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT})
      sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &old_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t old_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BLOCK_SIGNALS_H
