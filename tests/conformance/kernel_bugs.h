// SPDX-License-Identifier: MIT
// Where the real driver does other than the scenarios expect, by kernel. All that is left out there
// is left out by a name of this list.
#ifndef UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H
#define UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H

#include "rig.h"

namespace conformance {

// A server that dies before START leaves a device that none can serve any more: mmap of the
// descriptors fails with EINVAL. Mended in 7.3.
inline constexpr KernelBug kDeathBeforeStart{"a death before START spoils the device", "7.2."};

}  // namespace conformance

#endif  // UBLK_TESTS_CONFORMANCE_KERNEL_BUGS_H
