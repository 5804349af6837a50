// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_NODE_NUMBER_H
#define UBLK_RUNNER_NODE_NUMBER_H

#include <sys/types.h>

#include <optional>
#include <string>

namespace ublk_runner {

// "major:minor" of the node at the path, of `type` S_IFBLK or S_IFCHR; nullopt: it is none of that.
// Links are followed. What is reached asks no server about its attributes, so a link of
// /proc/PID/fd to a file of a network file system whose server is gone holds up nobody. A path that
// has to be looked up in such a file system still does. Any thread.
std::optional<std::string> node_number(const std::string& path, mode_t type);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_NODE_NUMBER_H
