// SPDX-License-Identifier: MIT
#ifndef UBLK_TESTS_SUPPORT_ALLOCATIONS_H
#define UBLK_TESTS_SUPPORT_ALLOCATIONS_H

#include <atomic>
#include <cstdint>

namespace test {

// How often operator new has been called in this program, libraries included, that it loads, too.
extern std::atomic<uint64_t> allocations;

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_ALLOCATIONS_H
