// SPDX-License-Identifier: MIT
//
// Coroutines of the control thread: what takes long is written as straight code, and the thread
// does something else while it waits.
//
//   Task<std::string> name_of(Device& device) {
//     Completion<std::string> answer = jobs.run([] { return slow(); });   // on another thread
//     if (!co_await answer.within(context, 5s)) throw std::runtime_error("no answer");
//     co_return co_await answer;                                          // or rethrows
//   }
//
// All of it belongs to the control thread; other threads deliver by MainContext::post().
//
// Kept simple for GCC 12, which destroys some temporaries of a co_await expression twice or too
// early: name the awaited object in a statement before, and keep co_await out of conditions that
// make temporaries, of ?: and of initializer lists.
#ifndef UBLK_RUNNER_ASYNC_H
#define UBLK_RUNNER_ASYNC_H

#include <coroutine>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "main_context.h"

namespace ublk_runner {

// ------------------------------------------------------------------ results --

// What a function returned or threw.
template <class T>
class Outcome {
 public:
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

  Outcome(Value value) : content_(std::in_place_index<0>, std::move(value)) {}
  Outcome(std::exception_ptr error) : content_(std::in_place_index<1>, std::move(error)) {}

  // Calls `function` and keeps what comes of it.
  template <class F>
  static Outcome of(F&& function) noexcept {
    try {
      if constexpr (std::is_void_v<T>) {
        function();
        return Outcome(Value{});
      } else {
        return Outcome(function());
      }
    } catch (...) {
      return Outcome(std::current_exception());
    }
  }

  // The value, or throws the error.
  T take() {
    if (content_.index() == 1) std::rethrow_exception(std::get<1>(content_));
    if constexpr (!std::is_void_v<T>) return std::move(std::get<0>(content_));
  }

 private:
  std::variant<Value, std::exception_ptr> content_;
};

// -------------------------------------------------------------------- tasks --

namespace internal {

struct TaskPromiseBase {
  // Resumed when the task has ended: the coroutine that awaits it, if any.
  std::coroutine_handle<> continuation = std::noop_coroutine();
  // Shared by the tasks of a when_all(): the last to end resumes the continuation.
  size_t* unfinished = nullptr;

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    // Here the task is suspended for good, so whoever is resumed may destroy it.
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> task) noexcept {
      TaskPromiseBase& promise = task.promise();
      if (promise.unfinished != nullptr && --*promise.unfinished != 0) return std::noop_coroutine();
      return promise.continuation;
    }
    void await_resume() noexcept {}
  };

  std::suspend_always initial_suspend() noexcept { return {}; }
  FinalAwaiter final_suspend() noexcept { return {}; }
};

template <class T>
struct TaskPromise : TaskPromiseBase {
  std::optional<Outcome<T>> outcome;
  auto get_return_object() { return std::coroutine_handle<TaskPromise>::from_promise(*this); }
  void unhandled_exception() { outcome.emplace(std::current_exception()); }
  void return_value(T value) { outcome.emplace(std::move(value)); }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
  std::optional<Outcome<void>> outcome;
  auto get_return_object() { return std::coroutine_handle<TaskPromise>::from_promise(*this); }
  void unhandled_exception() { outcome.emplace(std::current_exception()); }
  void return_void() { outcome.emplace(std::monostate{}); }
};

}  // namespace internal

// A coroutine that starts when it is awaited or start()ed, and ends with a T or an exception. The
// Task owns it: destroying the Task destroys the coroutine wherever it waits, and everything that
// it awaits.
template <class T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task(Handle handle) : handle_(handle) {}  // made by the coroutine
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  // Runs until the first wait. For a task that nothing awaits; see TaskSet.
  void start() { handle_.resume(); }
  bool done() const { return handle_.done(); }
  // The result of a task that is done; once.
  Outcome<T> outcome() { return std::move(*handle_.promise().outcome); }

  struct Awaiter {
    Handle task;
    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) noexcept {
      task.promise().continuation = waiter;
      return task;
    }
    T await_resume() { return task.promise().outcome->take(); }
  };
  Awaiter operator co_await() const noexcept { return Awaiter{handle_}; }

 private:
  template <class U>
  friend class AllOf;
  Handle handle_;
};

// Awaits all tasks, which run side by side: AllOf all(std::move(tasks)); co_await all;
// then all.tasks() holds them, done.
template <class T>
class AllOf {
 public:
  explicit AllOf(std::vector<Task<T>> tasks) : tasks_(std::move(tasks)) {}

  bool await_ready() const noexcept { return tasks_.empty(); }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) {
    unfinished_ = tasks_.size() + 1;  // one more, or the first could end all before the others run
    for (Task<T>& task : tasks_) {
      task.handle_.promise().continuation = waiter;
      task.handle_.promise().unfinished = &unfinished_;
      task.start();
    }
    if (--unfinished_ == 0) return waiter;
    return std::noop_coroutine();
  }
  void await_resume() const noexcept {}

  std::vector<Task<T>>& tasks() { return tasks_; }

 private:
  std::vector<Task<T>> tasks_;
  size_t unfinished_ = 0;
};

// Runs the tasks side by side and gives what came of each, in their order.
template <class T>
Task<std::vector<Outcome<T>>> when_all(std::vector<Task<T>> tasks) {
  AllOf<T> all(std::move(tasks));
  co_await all;
  std::vector<Outcome<T>> outcomes;
  outcomes.reserve(all.tasks().size());
  for (Task<T>& task : all.tasks()) outcomes.push_back(task.outcome());
  co_return outcomes;
}

// Tasks that nothing awaits. They must not let exceptions out; destroying the set destroys them.
class TaskSet {
 public:
  void start(Task<> task) {
    tasks_.remove_if([](const Task<>& ended) { return ended.done(); });
    tasks_.push_back(std::move(task));
    tasks_.back().start();
  }

 private:
  std::list<Task<>> tasks_;
};

// -------------------------------------------------------------- completions --

// Something that happens once, brings a T or an error, and may be awaited by one coroutine at a
// time. Copies are the same completion: the side that waits keeps one, the side that delivers
// another. If the waiter is destroyed, the delivery finds nobody and is dropped.
template <class T = void>
class [[nodiscard]] Completion {
 public:
  Completion() : state_(std::make_shared<State>()) {}

  // Delivers, and runs the waiting coroutine until its next wait. Only the first delivery counts.
  void settle(Outcome<T> outcome) const {
    const std::shared_ptr<State> state = state_;  // the waiter may destroy this object
    if (state->outcome.has_value()) return;
    state->outcome.emplace(std::move(outcome));
    if (state->waiter) std::exchange(state->waiter, nullptr).resume();
  }
  void set() const { settle(Outcome<T>(typename Outcome<T>::Value{})); }
  void fail(std::exception_ptr error) const { settle(Outcome<T>(std::move(error))); }

  bool is_settled() const { return state_->outcome.has_value(); }
  bool has_waiter() const { return static_cast<bool>(state_->waiter); }

  struct Awaiter;
  struct TimedAwaiter;
  // Takes the outcome: what was delivered, or throws. Once.
  Awaiter operator co_await() const { return Awaiter(state_); }
  // Waits until it is settled, at most so long. True if it is; co_await it then for the outcome.
  TimedAwaiter within(const MainContext& context, Milliseconds limit) const {
    return TimedAwaiter(state_, context, limit);
  }

 private:
  struct State {
    std::optional<Outcome<T>> outcome;
    std::coroutine_handle<> waiter;
  };
  std::shared_ptr<State> state_;
};

template <class T>
struct Completion<T>::Awaiter {
  explicit Awaiter(std::shared_ptr<State> s) : state(std::move(s)) {}
  Awaiter(const Awaiter&) = delete;
  ~Awaiter() { state->waiter = nullptr; }

  bool await_ready() const { return state->outcome.has_value(); }
  void await_suspend(std::coroutine_handle<> waiter) { state->waiter = waiter; }
  T await_resume() { return state->outcome->take(); }

  std::shared_ptr<State> state;
};

template <class T>
struct Completion<T>::TimedAwaiter {
  TimedAwaiter(std::shared_ptr<State> s, const MainContext& c, Milliseconds l)
      : state(std::move(s)), context(c), limit(l) {}
  TimedAwaiter(const TimedAwaiter&) = delete;
  ~TimedAwaiter() { state->waiter = nullptr; }

  bool await_ready() const { return state->outcome.has_value(); }
  void await_suspend(std::coroutine_handle<> waiter) {
    state->waiter = waiter;
    timer = context.after(limit, [this] { std::exchange(state->waiter, nullptr).resume(); });
  }
  bool await_resume() const { return state->outcome.has_value(); }

  std::shared_ptr<State> state;
  const MainContext context;
  const Milliseconds limit;
  Source timer;
};

// Runs `function` elsewhere and delivers its result to the control thread. `post` takes a
// std::function<void()> to where it is to run; there the function is destroyed, too.
template <class Post, class F>
auto call_elsewhere(const MainContext& context, Post&& post, F function) {
  using T = std::invoke_result_t<F&>;
  Completion<T> completion;
  auto shared = std::make_shared<F>(std::move(function));
  post([context, completion, shared = std::move(shared)]() mutable {
    auto outcome = std::make_shared<Outcome<T>>(Outcome<T>::of(*shared));
    shared.reset();
    context.post(
        [completion, outcome = std::move(outcome)] { completion.settle(std::move(*outcome)); });
  });
  return completion;
}

// --------------------------------------------------------------- semaphores --

// Lets so many tasks through at a time, in the order they came.
class Semaphore {
 public:
  explicit Semaphore(size_t permits) : free_(permits) {}
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;

  class Permit {
   public:
    explicit Permit(Semaphore* semaphore) : semaphore_(semaphore) {}
    Permit(Permit&& other) noexcept : semaphore_(std::exchange(other.semaphore_, nullptr)) {}
    Permit& operator=(Permit&&) = delete;
    ~Permit() { give_back(); }
    void give_back() {
      if (semaphore_ != nullptr) std::exchange(semaphore_, nullptr)->release();
    }

   private:
    Semaphore* semaphore_;
  };

  Task<Permit> acquire() {
    if (free_ == 0) {
      const Completion<> turn;
      waiting_.push_back(turn);
      co_await turn;
    } else {
      --free_;
    }
    co_return Permit(this);
  }

 private:
  void release() {
    while (!waiting_.empty()) {
      const Completion<> next = std::move(waiting_.front());
      waiting_.pop_front();
      if (!next.has_waiter()) continue;  // its task was destroyed
      next.set();
      return;
    }
    ++free_;
  }

  size_t free_;
  std::deque<Completion<>> waiting_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_ASYNC_H
