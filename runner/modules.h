// SPDX-License-Identifier: MIT
//
// The kernel's ublk driver, a module on most systems.
#ifndef UBLK_RUNNER_MODULES_H
#define UBLK_RUNNER_MODULES_H

namespace ublk_runner {

// Makes sure that /dev/ublk-control is there: loads ublk_drv if it is not, and waits a few seconds
// at most for the node. May block. Throws std::runtime_error, which says why there is no driver and
// what to do about it.
void load_ublk_module();

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MODULES_H
