// SPDX-License-Identifier: MIT
//
// Waiting for a device node ends when it comes, and only then or in time.
#include "wait_for_file.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include "test_data.h"

namespace ublk_runner {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

TEST(WaitForFile, FileThatIsThereIsNotWaitedFor) {
  const test::TempDir dir;
  dir.make_file("node", 0);
  EXPECT_TRUE(wait_for_file(dir / "node", 0ms));
}

TEST(WaitForFile, EndsWhenTheFileIsMadeOrMovedThere) {
  const test::TempDir dir;
  for (const bool moved : {false, true}) {
    const std::string node = moved ? "moved" : "made";
    const auto start = Clock::now();
    std::thread maker([&] {
      std::this_thread::sleep_for(50ms);
      dir.make_file("another", 0);
      if (moved)
        std::filesystem::rename(dir / "another", dir / node);
      else
        dir.make_file(node, 0);
    });
    EXPECT_TRUE(wait_for_file(dir / node, 30s));
    EXPECT_LT(Clock::now() - start, 10s);
    maker.join();
  }
}

TEST(WaitForFile, EndsInTimeWhateverElseComes) {
  const test::TempDir dir;
  const auto start = Clock::now();
  std::thread maker([&] {
    for (int i = 0; i < 20; ++i) {
      std::this_thread::sleep_for(10ms);
      dir.make_file(std::to_string(i), 0);
    }
  });
  EXPECT_FALSE(wait_for_file(dir / "node", 100ms));
  EXPECT_GE(Clock::now() - start, 100ms);
  maker.join();
}

TEST(WaitForFile, FolderMustBeThere) {
  const test::TempDir dir;
  try {
    wait_for_file(dir / "none/node", 10ms);
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), ENOENT);
  }
}

}  // namespace
}  // namespace ublk_runner
