// SPDX-License-Identifier: MIT
//
// Names of servers that are away do not hold up those of others.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>

#include "eventually.h"
#include "resolver.h"

namespace {

using nbd::Resolver;

// Jobs that hang until the test lets them go.
class ResolverTest : public testing::Test {
 protected:
  ~ResolverTest() override { let_go(); }

  void hang() {
    resolver_->run([this, hung = hung_] {
      ++started_;
      hung.wait();
    });
  }
  void let_go() {
    if (gone_) return;
    gone_ = true;
    go_.set_value();
  }

  std::promise<void> go_;
  std::shared_future<void> hung_ = go_.get_future().share();
  bool gone_ = false;
  std::atomic<unsigned> started_{0};
  // The last, which waits for them.
  std::unique_ptr<Resolver> resolver_ = std::make_unique<Resolver>();
};

TEST_F(ResolverTest, OneThatHangsDoesNotHoldUpOthers) {
  for (unsigned i = 1; i < Resolver::kMaxThreads; ++i) hang();
  std::promise<void> done;
  resolver_->run([&done] { done.set_value(); });
  EXPECT_EQ(done.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

TEST_F(ResolverTest, ThreadsAreBoundedAndWhatIsLeftIsDropped) {
  for (unsigned i = 0; i < 3 * Resolver::kMaxThreads; ++i) hang();
  EXPECT_TRUE(test::eventually([this] { return started_ == Resolver::kMaxThreads; })) << started_;
  std::future<void> end = std::async(std::launch::async, [this] { resolver_.reset(); });
  EXPECT_EQ(end.wait_for(std::chrono::seconds(1)), std::future_status::timeout);
  let_go();
  end.get();
  EXPECT_EQ(started_, Resolver::kMaxThreads);
}

TEST_F(ResolverTest, AllAreRun) {
  std::atomic<unsigned> run = 0;
  for (unsigned i = 1; i <= 100; ++i) {
    resolver_->run([&run] { ++run; });
    EXPECT_TRUE(test::eventually([&] { return run == i; }));
  }
}

}  // namespace
