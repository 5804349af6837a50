// SPDX-License-Identifier: MIT
#include "queue_placement.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace ublk_runner {
namespace {

std::vector<unsigned> place_device(QueuePlacement& placement, unsigned queues) {
  std::vector<unsigned> threads;
  for (unsigned i = 0; i < queues; ++i) threads.push_back(placement.place(i, queues));
  return threads;
}

using Threads = std::vector<unsigned>;

TEST(QueuePlacement, DevicesOfOneQueueAreSpread) {
  QueuePlacement placement(3);
  for (int round = 0; round < 2; ++round)
    for (const unsigned thread : {0u, 1u, 2u})
      EXPECT_EQ(place_device(placement, 1), Threads{thread}) << round;
}

// Whatever came before, also devices of one queue, which would shift a plain rotation.
TEST(QueuePlacement, QueuesOfTheSameCpusShareAThread) {
  QueuePlacement placement(4);
  for (int device = 0; device < 5; ++device) {
    place_device(placement, 1);
    EXPECT_EQ(place_device(placement, 4), (Threads{0, 1, 2, 3})) << device;
  }
}

TEST(QueuePlacement, AQueueOfMoreCpusHasMoreThreadsToChooseFrom) {
  QueuePlacement placement(4);
  EXPECT_EQ(place_device(placement, 2), (Threads{0, 2}));
  EXPECT_EQ(place_device(placement, 2), (Threads{1, 3}));
  EXPECT_EQ(place_device(placement, 2), (Threads{0, 2}));
}

TEST(QueuePlacement, NeighboursShareAThreadWhereQueuesAreMore) {
  QueuePlacement placement(2);
  EXPECT_EQ(place_device(placement, 4), (Threads{0, 0, 1, 1}));
  QueuePlacement odd(3);
  EXPECT_EQ(place_device(odd, 4), (Threads{0, 0, 1, 2}));
  QueuePlacement one(1);
  EXPECT_EQ(place_device(one, 3), (Threads{0, 0, 0}));
}

TEST(QueuePlacement, EveryNumberOfQueuesHasValidThreads) {
  for (unsigned threads = 1; threads <= 16; ++threads) {
    QueuePlacement placement(threads);
    for (unsigned queues = 1; queues <= 40; ++queues)
      for (const unsigned thread : place_device(placement, queues)) ASSERT_LT(thread, threads);
  }
}

}  // namespace
}  // namespace ublk_runner
