// SPDX-License-Identifier: MIT
// A wall clock that is set: clock_gettime(CLOCK_REALTIME) of the whole program, and so std::chrono
// and GLib, says what the kernel's clock says and an offset.
#ifndef UBLK_TESTS_SUPPORT_WALL_CLOCK_H
#define UBLK_TESTS_SUPPORT_WALL_CLOCK_H

#include <chrono>

namespace test {

// Forth or back; any thread.
void shift_wall_clock(std::chrono::seconds by);

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_WALL_CLOCK_H
