// SPDX-License-Identifier: MIT
//
// The whole of a text into a file.
#ifndef UBLK_RUNNER_WRITE_ALL_H
#define UBLK_RUNNER_WRITE_ALL_H

#include <string>
#include <string_view>

namespace ublk_runner {

// At the file's offset, in as many steps as it takes. Throws std::system_error with the `path`;
// then a part may have been written.
void write_all(int fd, std::string_view text, const std::string& path);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_WRITE_ALL_H
