// SPDX-License-Identifier: MIT
// Where the real driver does other than the scenarios expect, by kernel. All that is left out there
// is left out by a name of this list.
#ifndef UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H
#define UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H

#include "rig.h"

namespace conformance {

// A server that dies before START leaves a device that none can serve any more: mmap of the
// descriptors fails with EINVAL. Mended in 7.3.
inline constexpr KernelBug kDeathBeforeStart{"a death before START spoils the device",
                                             "6.12. 7.2."};

// Whoever fetches a queue's last tag becomes its only thread; others that have fetched from it are
// not refused, and when their ring ends the driver warns and does not give their commands back.
inline constexpr KernelBug kLastFetcherIsDaemon{"the last fetcher is the queue's thread", "6.12."};

// START_USER_RECOVERY is EINVAL instead of EBUSY for a device that was not started, and for one
// whose server has died after an earlier one and before a queue was fetched.
inline constexpr KernelBug kOneRecovery{"START_USER_RECOVERY wants a queue that was fetched",
                                        "6.12."};

// A server that dies with half a queue fetched makes the driver warn: the queue has no thread yet.
inline constexpr KernelBug kHalfAQueue{"a death with half a queue fetched warns", "6.12."};

}  // namespace conformance

#endif  // UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H
