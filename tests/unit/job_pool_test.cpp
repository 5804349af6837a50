// SPDX-License-Identifier: MIT
// Jobs that may block: none waits for another, and the pool for none.
#include "job_pool.h"

#include <gtest/gtest.h>
#include <sys/types.h>
#include <unistd.h>

#include <barrier>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "eventually.h"
#include "main_context.h"

namespace ublk_runner {
namespace {

constexpr std::chrono::seconds kHung{60};

class JobPoolTest : public testing::Test {
 protected:
  template <class T>
  std::future<T> push(std::function<T()> job) {
    const auto task = std::make_shared<std::packaged_task<T()>>(std::move(job));
    std::future<T> result = task->get_future();
    jobs_->push([task] { (*task)(); });
    return result;
  }

  // Of all pools of this process.
  static int threads() {
    int found = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      found += name == "ublk-jobs" ? 1 : 0;
    }
    return found;
  }

  const MainContext context_;
  std::unique_ptr<JobPool> jobs_ = std::make_unique<JobPool>(context_);
};

TEST_F(JobPoolTest, ThoseThatWaitHoldUpNoOther) {
  constexpr int kJobs = 40;
  std::barrier all(kJobs);
  std::vector<std::future<int>> results;
  for (int i = 0; i < kJobs; ++i)
    results.push_back(push<int>([&all, i] {
      all.arrive_and_wait();
      return i;
    }));
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_EQ(results[i].wait_for(kHung), std::future_status::ready) << i;
    EXPECT_EQ(results[i].get(), i);
  }
}

TEST_F(JobPoolTest, AThreadThatIsIdleTakesTheNext) {
  const std::function<pid_t()> who = [] { return gettid(); };
  const pid_t first = push(who).get();
  // It may not be back yet when the next one comes: then that gets another thread, which is idle at
  // the third.
  bool again = false;
  for (int round = 0; round < 100 && !again; ++round) again = push(who).get() == first;
  EXPECT_TRUE(again);
}

// As many as there were jobs at once would stay for seconds.
TEST_F(JobPoolTest, FewThreadsStayIdle) {
  constexpr int kJobs = 40;
  std::barrier all(kJobs);
  std::vector<std::future<int>> ended;
  for (int i = 0; i < kJobs; ++i)
    ended.push_back(push<int>([&all] {
      all.arrive_and_wait();
      return 0;
    }));
  for (std::future<int>& job : ended) job.wait();
  EXPECT_TRUE(test::eventually([&] { return threads() <= 8; }, std::chrono::seconds(4)))
      << threads();
}

TEST_F(JobPoolTest, WhatHangsAtTheEndIsLeftToItself) {
  std::promise<void> release;
  std::future<int> hanging = push<int>([held = release.get_future().share()] {
    held.wait();
    return 7;
  });
  jobs_.reset();
  EXPECT_EQ(hanging.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  release.set_value();
  ASSERT_EQ(hanging.wait_for(kHung), std::future_status::ready);
  EXPECT_EQ(hanging.get(), 7);
}

}  // namespace
}  // namespace ublk_runner
