// SPDX-License-Identifier: MIT
#include "adaptive_spin.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <semaphore>
#include <thread>

#include "batch_scheduling.h"

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
  AdaptiveSpin patient(std::chrono::seconds(10));  // on a busy machine each look may take long
  int looks = 0;
  EXPECT_TRUE(patient.wait([&] { return ++looks == 3; }));
  EXPECT_EQ(looks, 3);
  EXPECT_EQ(patient.tried(), 1u);
  EXPECT_EQ(patient.failed(), 0u);
  AdaptiveSpin spin(kLimit);
  EXPECT_FALSE(spin.wait([] { return false; }));
  EXPECT_EQ(spin.tried(), 1u);
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

// The calling thread, and those that it makes, have this CPU only.
void stay_on(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  ASSERT_EQ(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

// A worker with SCHED_BATCH can't take the CPU: unless the one that waits gives it, it looks tens
// of thousands of times before its time is over.
TEST(AdaptiveSpin, WhoIsWaitedForGetsTheCpu) {
  constexpr unsigned kRounds = 50;
  constexpr unsigned kLooksBound = 1000;  // a round
  uint64_t looks = 0;
  std::thread([&looks] {
    ASSERT_NO_FATAL_FAILURE(stay_on(sched_getcpu()));
    schedule_as_batch();
    std::binary_semaphore asked(0);
    std::atomic<unsigned> answered = 0;
    std::thread worker([&] {
      for (unsigned i = 1; i <= kRounds; ++i) {
        asked.acquire();
        answered = i;
      }
    });
    AdaptiveSpin spin(std::chrono::seconds(10));
    for (unsigned i = 1; i <= kRounds; ++i) {
      asked.release();
      EXPECT_TRUE(spin.wait([&] {
        ++looks;
        return answered == i;
      })) << i;
    }
    worker.join();
  }).join();
  EXPECT_LE(looks, kRounds * kLooksBound);
}

}  // namespace
}  // namespace ublk_runner
