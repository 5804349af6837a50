// SPDX-License-Identifier: MIT
//
// Waiting for what another thread does soon:
//
//   ASSERT_TRUE(test::eventually([&] { return ended == 4; })) << ended << " have ended";
#ifndef UBLK_TESTS_SUPPORT_EVENTUALLY_H
#define UBLK_TESTS_SUPPORT_EVENTUALLY_H

#include <chrono>
#include <thread>

namespace test {

inline void sleep_a_moment() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

// Whether `condition` comes true, with `pause` between two looks. The limit is for what is broken,
// on a loaded machine.
template <class Condition>
bool eventually(Condition condition, std::chrono::seconds limit = std::chrono::seconds(20),
                void (*pause)() = sleep_a_moment) {
  using Clock = std::chrono::steady_clock;
  for (const auto deadline = Clock::now() + limit; Clock::now() < deadline; pause())
    if (condition()) return true;
  return condition();
}

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_EVENTUALLY_H
