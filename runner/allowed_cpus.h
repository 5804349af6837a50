// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_ALLOWED_CPUS_H
#define UBLK_RUNNER_ALLOWED_CPUS_H

#include <sched.h>

#include <algorithm>
#include <thread>

namespace ublk_runner {

// How many CPUs this process may use.
inline unsigned allowed_cpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
    return static_cast<unsigned>(std::max(1, CPU_COUNT(&cpus)));
  return std::max(1u, std::thread::hardware_concurrency());  // more CPUs than a cpu_set_t has
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_ALLOWED_CPUS_H
