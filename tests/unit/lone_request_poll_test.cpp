// SPDX-License-Identifier: MIT
#include "lone_request_poll.h"

#include <gtest/gtest.h>

namespace ublk_runner {
namespace {

// Whether wait() looks at all.
bool looks(LoneRequestPoll& poll, bool answer) {
  bool looked = false;
  poll.wait([&] {
    looked = true;
    return answer;
  });
  return looked;
}

unsigned skipped_after_failure(LoneRequestPoll& poll) {
  unsigned skipped = 0;
  while (!looks(poll, false)) ++skipped;
  return skipped;
}

TEST(LoneRequestPoll, LooksUntilTheAnswerIsThere) {
  LoneRequestPoll poll;
  int looks = 0;
  poll.wait([&] { return ++looks == 3; });
  EXPECT_EQ(looks, 3);
}

TEST(LoneRequestPoll, IsTriedForEachRequestWhileItSucceeds) {
  LoneRequestPoll poll;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(looks(poll, true)) << i;
}

TEST(LoneRequestPoll, IsTriedLessAndLessWhileItFails) {
  LoneRequestPoll poll;
  ASSERT_TRUE(looks(poll, false));
  for (const unsigned expected : {16U, 32U, 64U, 128U, 256U, 512U, 1024U, 1024U})
    EXPECT_EQ(skipped_after_failure(poll), expected);
}

TEST(LoneRequestPoll, OneSuccessMakesItHopefulAgain) {
  LoneRequestPoll poll;
  ASSERT_TRUE(looks(poll, false));
  ASSERT_EQ(skipped_after_failure(poll), 16U);
  while (!looks(poll, true)) continue;
  EXPECT_TRUE(looks(poll, false));
  EXPECT_EQ(skipped_after_failure(poll), 16U);
}

}  // namespace
}  // namespace ublk_runner
