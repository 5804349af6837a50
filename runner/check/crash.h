// SPDX-License-Identifier: MIT
// What a crash in a check's process is told as.
#ifndef UBLK_CHECK_CRASH_H
#define UBLK_CHECK_CRASH_H

#include "child.h"
#include "fake/guarded_buffers.h"

namespace ublk_check {

// From now on a fatal signal is reported, with the place in the code, and with what the address is
// if it lies in a guarded buffer; then it ends the process. Both objects must outlive the process's
// other threads. Once.
void report_crashes(const Reporter& reporter, const fake::GuardedBuffers& buffers);

}  // namespace ublk_check

#endif  // UBLK_CHECK_CRASH_H
