// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_WAIT_FOR_FILE_H
#define UBLK_RUNNER_WAIT_FOR_FILE_H

#include <chrono>
#include <string>

namespace ublk_runner {

// Returns true as soon as `path` exists, false if it does not within `timeout`. Sleeps until its
// folder, which must exist, changes. Throws std::system_error if the folder can't be watched.
bool wait_for_file(const std::string& path, std::chrono::milliseconds timeout);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_WAIT_FOR_FILE_H
