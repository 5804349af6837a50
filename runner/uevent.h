// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_UEVENT_H
#define UBLK_RUNNER_UEVENT_H

#include <string>

namespace ublk_runner {

// Has udev look again at the block device `node`, "/dev/ublkb3", and at its partitions, now that
// its link is there, from which the rules take the name. Does not wait for that; a failure only
// means that there is no udev that could be told.
void announce_to_udev(const std::string& node);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_UEVENT_H
