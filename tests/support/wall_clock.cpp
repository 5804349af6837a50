// SPDX-License-Identifier: MIT
#include "wall_clock.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <ctime>

namespace test {

static std::atomic<time_t> offset{0};

void shift_wall_clock(std::chrono::seconds by) { offset += by.count(); }

}  // namespace test

// In place of libc's, for the program and its libraries.
extern "C" __attribute__((visibility("default"))) int clock_gettime(clockid_t clock,
                                                                    timespec* time) noexcept {
  const auto rc = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    time->tv_sec += test::offset.load(std::memory_order_relaxed);
  return rc;
}
