// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_MEMORY_LOCK_H
#define UBLK_RUNNER_MEMORY_LOCK_H

#include <sys/mman.h>

#include <cerrno>
#include <system_error>

#include "log.h"

namespace ublk_runner {

// Keeps what this process uses of its memory, now and later, in RAM, handlers included: their code
// may be on a disk that is served here, and so may the swap. Only what is used: address space that
// is reserved costs nothing (MCL_ONFAULT). A failure is logged.
inline void lock_memory() {
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0) return;
  log(LogLevel::kWarning, {}, "the memory can't be locked: %s (RLIMIT_MEMLOCK?)",
      std::generic_category().message(errno).c_str());
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MEMORY_LOCK_H
