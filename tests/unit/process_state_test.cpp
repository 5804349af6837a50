// SPDX-License-Identifier: MIT
#include "process_state.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace {

using namespace std::chrono_literals;
using ublk_check::left_behind_for_good;
using ublk_check::ProcessState;

constexpr size_t kSlack = 1 << 20;

TEST(ProcessState, TellsOfADescriptorThatStays) {
  const ProcessState before = ProcessState::now();
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(left_behind_for_good(before, kSlack), "1 descriptor (/dev/null)");
  close(fd);
  EXPECT_EQ(left_behind_for_good(before, kSlack), "");
}

// A thread of a pool lets go of a job only after the one who waits for it has been told.
TEST(ProcessState, WhatAnotherThreadIsAboutToCloseIsNotLeft) {
  const ProcessState before = ProcessState::now();
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  std::thread late([fd] {
    std::this_thread::sleep_for(50ms);
    close(fd);
  });
  EXPECT_EQ(left_behind_for_good(before, kSlack, 256 << 20), "");
  late.join();
}

}  // namespace
