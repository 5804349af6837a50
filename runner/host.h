// SPDX-License-Identifier: MIT
// What the runner does for handlers: the functions of struct ublk_host.
#ifndef UBLK_RUNNER_HOST_H
#define UBLK_RUNNER_HOST_H

#include <ublk/handler.h>

#include <stdexcept>

namespace ublk_runner {

// The table that every instance is opened with.
const ublk_host& handler_host();

// For who calls a callback that can say why it fails: forget what an earlier one on this thread has
// given host->set_error, and then, if it has returned `result`, make an error of it: "open: " and
// that text, or the errno's.
void clear_callback_error();
std::runtime_error callback_error(const char* callback, int result);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_HOST_H
