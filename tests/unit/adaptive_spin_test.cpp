// SPDX-License-Identifier: MIT
#include "adaptive_spin.h"

#include <gtest/gtest.h>

namespace ublk_runner {
namespace {

constexpr std::chrono::microseconds kLimit{100};

// Whether wait() looks at all.
bool looks(AdaptiveSpin& spin, bool answer) {
  bool looked = false;
  spin.wait([&] {
    looked = true;
    return answer;
  });
  return looked;
}

unsigned skipped_after_failure(AdaptiveSpin& spin) {
  unsigned skipped = 0;
  while (!looks(spin, false)) ++skipped;
  return skipped;
}

TEST(AdaptiveSpin, LooksUntilTheAnswerIsThere) {
  AdaptiveSpin spin(kLimit);
  int looks = 0;
  EXPECT_TRUE(spin.wait([&] { return ++looks == 3; }));
  EXPECT_EQ(looks, 3);
  EXPECT_FALSE(spin.wait([] { return false; }));
  EXPECT_EQ(spin.tried(), 2u);
  EXPECT_EQ(spin.failed(), 1u);
}

TEST(AdaptiveSpin, IsOffWithoutALimit) {
  EXPECT_TRUE(AdaptiveSpin(kLimit).enabled());
  EXPECT_FALSE(AdaptiveSpin(std::chrono::microseconds(0)).enabled());
}

TEST(AdaptiveSpin, IsTriedEachTimeWhileItSucceeds) {
  AdaptiveSpin spin(kLimit);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(looks(spin, true)) << i;
}

TEST(AdaptiveSpin, IsTriedLessAndLessWhileItFails) {
  AdaptiveSpin spin(kLimit);
  ASSERT_TRUE(looks(spin, false));
  for (const unsigned expected : {16U, 32U, 64U, 128U, 256U, 512U, 1024U, 1024U})
    EXPECT_EQ(skipped_after_failure(spin), expected);
}

TEST(AdaptiveSpin, OneSuccessMakesItHopefulAgain) {
  AdaptiveSpin spin(kLimit);
  ASSERT_TRUE(looks(spin, false));
  ASSERT_EQ(skipped_after_failure(spin), 16U);
  while (!looks(spin, true)) continue;
  EXPECT_TRUE(looks(spin, false));
  EXPECT_EQ(skipped_after_failure(spin), 16U);
}

}  // namespace
}  // namespace ublk_runner
