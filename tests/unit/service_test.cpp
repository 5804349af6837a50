// SPDX-License-Identifier: MIT
#include "service.h"

#include <gtest/gtest.h>

namespace ublk_runner {
namespace {

StartSummary summary_of(size_t started, size_t failed, size_t left = 0) {
  StartSummary summary;
  summary.started = started;
  summary.left = left;
  summary.failed.resize(failed);
  return summary;
}

TEST(StatusOfStart, IsThatOfTheDevices) {
  EXPECT_EQ(status_of_start(summary_of(0, 0), false), kExitOk);
  EXPECT_EQ(status_of_start(summary_of(2, 0), false), kExitOk);
  EXPECT_EQ(status_of_start(summary_of(1, 1), false), kExitSomeFailed);
  EXPECT_EQ(status_of_start(summary_of(0, 2), false), kExitNoDevice);
}

TEST(StatusOfStart, SaysThatDevicesWaitForALaterStart) {
  EXPECT_EQ(status_of_start(summary_of(0, 2, 1), false), kExitTryAgain);
  EXPECT_EQ(status_of_start(summary_of(0, 1, 1), true), kExitTryAgain);
  EXPECT_EQ(status_of_start(summary_of(1, 1, 1), false), kExitSomeFailed);
}

TEST(StatusOfStart, IsNoSuccessWithAConfigurationThatHasErrors) {
  EXPECT_EQ(status_of_start(summary_of(1, 0), true), kExitSomeFailed);
  EXPECT_EQ(status_of_start(summary_of(0, 0), true), kExitUsage);
}

}  // namespace
}  // namespace ublk_runner
