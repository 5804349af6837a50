// SPDX-License-Identifier: MIT
// Coroutines of the control thread: results, errors, waiting, and that nothing is left of a task
// that is destroyed where it waits.
#include "async.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "job_pool.h"

namespace ublk_runner {
namespace {

using std::chrono::milliseconds;

// Runs the context until `task` has ended.
template <class T>
T run(const MainContext& context, Task<T> task) {
  task.start();
  while (!task.done()) g_main_context_iteration(context.get(), TRUE);
  Outcome<T> outcome = task.outcome();
  return outcome.take();
}

// Tells how many of it are alive.
struct Counted {
  static inline std::atomic<int> alive{0};
  Counted() { ++alive; }
  Counted(const Counted&) { ++alive; }
  ~Counted() { --alive; }
};

class AsyncTest : public testing::Test {
 protected:
  void SetUp() override { Counted::alive = 0; }
  void TearDown() override { EXPECT_EQ(Counted::alive, 0); }

  const std::unique_ptr<GMainContext, decltype(&g_main_context_unref)> own{g_main_context_new(),
                                                                           g_main_context_unref};
  const MainContext context{own.get()};
};

Task<int> number(int value) { co_return value; }
Task<int> sum(int depth) {
  if (depth == 0) co_return 0;
  const int one = co_await number(1);
  const int rest = co_await sum(depth - 1);
  co_return one + rest;
}

TEST_F(AsyncTest, ATaskStartsWhenItIsAwaited) {
  bool started = false;
  const auto set = [](bool& flag) -> Task<> {
    flag = true;
    co_return;
  };
  Task<> task = set(started);
  EXPECT_FALSE(started);
  run(context, std::move(task));
  EXPECT_TRUE(started);
}

TEST_F(AsyncTest, ResultsComeThrough) { EXPECT_EQ(run(context, sum(200)), 200); }

Task<std::string> fails(Counted) {
  const std::string text = "broken";
  throw std::runtime_error(text);
  co_return text;
}
Task<std::string> passes_on(Counted counted) {
  std::string text = co_await fails(counted);
  co_return text + "!";
}
Task<std::string> handles(Counted counted) {
  std::string caught;
  try {
    caught = co_await passes_on(counted);
  } catch (const std::runtime_error& e) {
    caught = e.what();
  }
  co_return caught;
}

TEST_F(AsyncTest, ExceptionsComeThrough) {
  EXPECT_EQ(run(context, handles(Counted())), "broken");
  EXPECT_THROW(run(context, passes_on(Counted())), std::runtime_error);
}

Task<int> take(Completion<int> completion, Counted) {
  const int value = co_await completion;
  co_return value;
}

TEST_F(AsyncTest, ACompletionWakesItsWaiterWithTheFirstDelivery) {
  const Completion<int> completion;
  Task<int> task = take(completion, Counted());
  task.start();
  EXPECT_TRUE(completion.has_waiter());
  EXPECT_FALSE(task.done());
  completion.settle(5);
  completion.settle(6);
  ASSERT_TRUE(task.done());
  EXPECT_EQ(task.outcome().take(), 5);
}

TEST_F(AsyncTest, ACompletionMayBeSettledBefore) {
  const Completion<int> completion;
  completion.fail(std::make_exception_ptr(std::out_of_range("early")));
  EXPECT_THROW(run(context, take(completion, Counted())), std::out_of_range);
}

TEST_F(AsyncTest, ADestroyedWaiterIsNotWoken) {
  const Completion<int> completion;
  {
    const auto outer = [](Completion<int> c) -> Task<int> {
      const Counted counted;
      const int value = co_await take(c, counted);
      co_return value;
    };
    Task<int> task = outer(completion);
    task.start();
    EXPECT_GT(Counted::alive, 0);
  }
  EXPECT_EQ(Counted::alive, 0);
  EXPECT_FALSE(completion.has_waiter());
  completion.settle(1);
}

Task<bool> wait_within(Completion<int> completion, const MainContext& context, milliseconds limit) {
  const bool in_time = co_await completion.within(context, limit);
  co_return in_time;
}

TEST_F(AsyncTest, ABoundedWaitEndsInTimeOrNot) {
  const Completion<int> completion;
  EXPECT_FALSE(run(context, wait_within(completion, context, milliseconds(5))));
  EXPECT_FALSE(completion.has_waiter());

  const Source timer = context.after(milliseconds(5), [&] { completion.settle(3); });
  EXPECT_TRUE(run(context, wait_within(completion, context, milliseconds(10'000))));
  EXPECT_EQ(run(context, take(completion, Counted())), 3);
}

TEST_F(AsyncTest, ADestroyedBoundedWaitTakesItsTimerAlong) {
  const Completion<int> completion;
  {
    Task<bool> task = wait_within(completion, context, milliseconds(1));
    task.start();
  }
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_FALSE(g_main_context_iteration(context.get(), FALSE));
}

Task<int> fail_if_odd(Completion<int> completion, Counted) {
  const int value = co_await completion;
  if (value % 2 != 0) throw std::invalid_argument("odd");
  co_return value;
}

TEST_F(AsyncTest, WhenAllGivesEachOutcomeInOrder) {
  std::vector<Completion<int>> completions(3);
  std::vector<Task<int>> tasks;
  for (const auto& completion : completions) tasks.push_back(fail_if_odd(completion, Counted()));
  Task<std::vector<Outcome<int>>> all = when_all(std::move(tasks));
  completions[1].settle(1);
  all.start();
  completions[2].settle(2);
  EXPECT_FALSE(all.done());
  completions[0].settle(4);
  ASSERT_TRUE(all.done());
  std::vector<Outcome<int>> outcomes = all.outcome().take();
  EXPECT_EQ(outcomes[0].take(), 4);
  EXPECT_THROW(outcomes[1].take(), std::invalid_argument);
  EXPECT_EQ(outcomes[2].take(), 2);
}

TEST_F(AsyncTest, WhenAllOfNothingAndOfWhatIsReady) {
  EXPECT_TRUE(run(context, when_all(std::vector<Task<int>>())).empty());
  std::vector<Task<int>> tasks;
  for (int i = 0; i < 100; ++i) tasks.push_back(number(i));
  EXPECT_EQ(run(context, when_all(std::move(tasks))).size(), 100u);
}

TEST_F(AsyncTest, ADestroyedWhenAllDestroysItsTasks) {
  const std::vector<Completion<int>> completions(3);
  {
    std::vector<Task<int>> tasks;
    for (const auto& completion : completions) tasks.push_back(take(completion, Counted()));
    Task<std::vector<Outcome<int>>> all = when_all(std::move(tasks));
    all.start();
    EXPECT_EQ(Counted::alive, 3);
  }
  EXPECT_EQ(Counted::alive, 0);
  for (const auto& completion : completions) completion.settle(1);
}

Task<> pass(Semaphore& semaphore, Completion<> leave, int& inside) {
  const Semaphore::Permit permit = co_await semaphore.acquire();
  ++inside;
  co_await leave;
  --inside;
}

TEST_F(AsyncTest, ASemaphoreLetsSoManyIn) {
  Semaphore semaphore(2);
  int inside = 0;
  const std::vector<Completion<>> leave(4);
  std::vector<Task<>> tasks;
  for (const auto& completion : leave) {
    tasks.push_back(pass(semaphore, completion, inside));
    tasks.back().start();
  }
  EXPECT_EQ(inside, 2);
  leave[0].set();
  EXPECT_EQ(inside, 2);
  EXPECT_TRUE(leave[2].has_waiter());
  tasks.erase(tasks.begin() + 3);  // a waiter that goes loses no permit
  leave[1].set();
  leave[2].set();
  EXPECT_EQ(inside, 0);
  Task<> last = pass(semaphore, leave[3], inside);
  last.start();
  EXPECT_EQ(inside, 1);
}

TEST_F(AsyncTest, ATaskSetRunsAndDestroys) {
  const Completion<int> never;
  int ended = 0;
  {
    TaskSet set;
    const auto wait = [](Completion<int> c, int& count, Counted) -> Task<> {
      co_await c;
      ++count;
    };
    const Completion<int> soon;
    set.start(wait(soon, ended, Counted()));
    set.start(wait(never, ended, Counted()));
    soon.settle(1);
    EXPECT_EQ(ended, 1);
  }
  EXPECT_EQ(ended, 1);
}

TEST_F(AsyncTest, JobsRunElsewhereAndAnswerHere) {
  const auto jobs = std::make_shared<JobPool>(context);
  const auto here = std::this_thread::get_id();
  const auto elsewhere = jobs->run([counted = Counted()] { return std::this_thread::get_id(); });
  const auto wait = [](Completion<std::thread::id> answer) -> Task<std::thread::id> {
    const std::thread::id id = co_await answer;
    co_return id;
  };
  EXPECT_NE(run(context, wait(elsewhere)), here);

  const auto broken = jobs->run([]() -> int { throw std::runtime_error("job"); });
  EXPECT_THROW(run(context, take(broken, Counted())), std::runtime_error);
}

TEST_F(AsyncTest, PostNeverRunsOnTheCaller) {
  bool ran = false;
  context.post([&] { ran = true; });
  EXPECT_FALSE(ran);
  g_main_context_iteration(context.get(), FALSE);
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace ublk_runner
