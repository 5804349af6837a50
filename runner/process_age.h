// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_PROCESS_AGE_H
#define UBLK_RUNNER_PROCESS_AGE_H

#include "main_context.h"

namespace ublk_runner {

// How long ago this process was made, before its program and libraries were loaded; to 10 ms, the
// unit of /proc (proc(5): starttime). 0 if that can't be read.
Milliseconds process_age();

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_PROCESS_AGE_H
