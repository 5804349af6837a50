// SPDX-License-Identifier: MIT
// Clocks that are set: clock_gettime() of the whole program, and so std::chrono and GLib, says what
// the kernel's clock says and an offset.
#ifndef UBLK_TESTS_SUPPORT_CLOCKS_H
#define UBLK_TESTS_SUPPORT_CLOCKS_H

#include <chrono>

namespace test {

// Forth or back; any thread.
void shift_wall_clock(std::chrono::seconds by);  // CLOCK_REALTIME
// As when the machine has slept; back, as when it was restored from an image: CLOCK_BOOTTIME.
void shift_boot_clock(std::chrono::seconds by);

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_CLOCKS_H
