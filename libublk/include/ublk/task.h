// SPDX-License-Identifier: MIT
//
// Coroutines that serve a request: straight code over what takes a while.
//
//   ublk::Task<int> read_block(ublk::Io& io, uint64_t block) {
//     co_return co_await io.read(fd_, io.data(), io.length(), block * kBlockSize);
//   }
//   ublk::Task<int> read(ublk::Io& io) override {
//     int n = co_await read_block(io, io.offset() / kBlockSize);
//     if (n < 0) n = co_await read_block(io, kSpare);
//     co_return n;
//   }
//
// A coroutine begins when it is awaited and is one of four things from then on: running, waiting
// for what it awaits, ended, or destroyed with the Task that is its owner. What it may await is
// what its Io gives (<ublk/io.h>), other Tasks, and when_all() of these.
//
// Memory: a coroutine must take the Io& of its request, at any place among its parameters (`this`
// aside, so it is no lambda with captures). Its frame lies in the request's own memory then, of
// kFrameSize bytes (see <ublk/handler.hpp>), and an I/O allocates nothing. A frame that does not
// fit there comes from the heap, and the log tells once how much it takes. Parameters that are
// references must outlive the coroutine.
//
// Errors: an exception that leaves a coroutine is thrown by the co_await of its Task; from a
// request's first coroutine, it fails the request with -EIO.
//
// Threads: all coroutines of a request run on the thread that serves it.
//
// GCC 12 gets some co_awaits wrong: keep them out of ?:, of conditions and of initializer lists.
#ifndef UBLK_TASK_H
#define UBLK_TASK_H

#include <algorithm>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <ranges>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

namespace ublk {

// The memory of one request's coroutine frames, which come and go as on a stack. Belongs to the
// thread that serves the request.
class FrameArena {
 public:
  FrameArena() = default;
  // `memory`, 16-aligned, is the owner's and must outlive the frames.
  FrameArena(void* memory, uint32_t size) : memory_(static_cast<std::byte*>(memory)), size_(size) {}
  FrameArena(const FrameArena&) = delete;
  FrameArena& operator=(const FrameArena&) = delete;

  // Throws std::bad_alloc.
  void* allocate_frame(size_t size) {
    const size_t bytes = (sizeof(Block) + size + alignof(Block) - 1) & ~(alignof(Block) - 1);
    if (bytes > size_ - used_) [[unlikely]]
      return allocate_on_heap(bytes);
    Block* block = new (memory_ + used_) Block{this, top_, Block::State::kUsed};
    top_ = used_;
    used_ += static_cast<uint32_t>(bytes);
    return block + 1;
  }
  static void free_frame(void* frame) noexcept {
    Block* block = static_cast<Block*>(frame) - 1;
    block->arena->release(*block);
  }

  // The bytes that would have been enough for all frames so far; 0: those that there are.
  size_t lacking_size() const { return lacking_size_; }

 private:
  // Before each frame.
  struct alignas(16) Block {
    enum class State : uint32_t { kUsed, kFree, kOnHeap };
    FrameArena* arena;
    uint32_t below;  // where the block below it begins; kOnHeap: its own bytes
    State state;
  };

  Block& top() { return *reinterpret_cast<Block*>(memory_ + top_); }

  [[gnu::noinline]] void* allocate_on_heap(size_t bytes) {
    Block* block = new (::operator new(bytes))
        Block{this, static_cast<uint32_t>(bytes), Block::State::kOnHeap};
    on_heap_ += bytes;
    lacking_size_ = std::max(lacking_size_, used_ + on_heap_);
    return block + 1;
  }

  // A frame that is not the last goes when those above it have gone.
  void release(Block& block) noexcept {
    if (block.state == Block::State::kOnHeap) [[unlikely]] {
      on_heap_ -= block.below;
      ::operator delete(&block);
      return;
    }
    block.state = Block::State::kFree;
    if (&block != &top()) return;
    do {
      used_ = top_;
      top_ = top().below;
    } while (used_ != 0 && top().state == Block::State::kFree);
  }

  std::byte* memory_ = nullptr;
  uint32_t size_ = 0;
  uint32_t used_ = 0;
  uint32_t top_ = 0;  // where the last block begins
  size_t on_heap_ = 0;
  size_t lacking_size_ = 0;
};

namespace internal {

// Several that are awaited together: the last to end resumes who awaits them.
struct Group {
  size_t unfinished = 0;
  std::coroutine_handle<> waiter;

  std::coroutine_handle<> one_ended() {
    if (--unfinished != 0) return std::noop_coroutine();
    return waiter;
  }
};

template <class Argument>
inline constexpr bool is_arena = std::derived_from<std::remove_const_t<Argument>, FrameArena>;

template <class First, class... Rest>
FrameArena& arena_among(First& first, Rest&... rest) {
  if constexpr (is_arena<First>)
    return first;
  else
    return arena_among(rest...);
}

struct TaskPromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();  // that awaits it, and it alone
  Group* group = nullptr;                                        // or with others
  std::exception_ptr error;

  // Inlined, or GCC 12 takes the two for a pair that does not match.
  template <class... Arguments>
  [[gnu::always_inline]] static void* operator new(size_t size, Arguments&... arguments) {
    static_assert((is_arena<Arguments> || ...),
                  "a coroutine that returns a Task takes its request's ublk::Io&");
    return arena_among(arguments...).allocate_frame(size);
  }
  static void operator delete(void* frame) noexcept { FrameArena::free_frame(frame); }

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    // The coroutine is suspended for good, so whoever is resumed may destroy it.
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      TaskPromiseBase& promise = ended.promise();
      return promise.group != nullptr ? promise.group->one_ended() : promise.continuation;
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  FinalAwaiter final_suspend() const noexcept { return {}; }
  void unhandled_exception() noexcept { error = std::current_exception(); }
};

template <class T>
struct TaskPromise : TaskPromiseBase {
  T value{};
  auto get_return_object() { return std::coroutine_handle<TaskPromise>::from_promise(*this); }
  void return_value(T result) { value = std::move(result); }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
  auto get_return_object() { return std::coroutine_handle<TaskPromise>::from_promise(*this); }
  void return_void() {}
};

// Task<void> has no value.
template <class T>
struct TaskValue {
  T value{};
};
template <>
struct TaskValue<void> {};

}  // namespace internal

// A coroutine that has a T as its result, or a T at once: a function that has nothing to wait for
// returns its result without being a coroutine. T can be void, or has a default constructor.
template <class T>
class [[nodiscard]] Task : private internal::TaskValue<T> {
 public:
  using promise_type = internal::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task(Handle coroutine) : handle_(coroutine) {}  // made by the coroutine
  template <class Value>
  Task(Value result) requires(!std::is_void_v<T> && std::convertible_to<Value, T>)
      : internal::TaskValue<T>{static_cast<T>(std::move(result))} {}
  Task(Task&& other) noexcept
      : internal::TaskValue<T>(std::move(other)), handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  // Runs the coroutine until it has ended, and gives its result. Once.
  auto operator co_await() { return Awaiter{*this}; }

  // For what runs a Task. The first two begin it, unless that has been done, and say whether it
  // waits for something; take() gives the result of one that does not; release() hands the
  // coroutine over, or nullptr if there is none.
  bool begin() {
    if (!handle_ || handle_.done()) return false;
    handle_.resume();
    return !handle_.done();
  }
  bool begin_in(internal::Group& group) {
    if (!begin()) return false;
    handle_.promise().group = &group;
    return true;
  }
  T take() {
    if (!handle_) {
      if constexpr (!std::is_void_v<T>) return std::move(this->value);
    } else if (handle_.promise().error) [[unlikely]] {
      std::rethrow_exception(handle_.promise().error);
    }
    if constexpr (!std::is_void_v<T>) return std::move(handle_.promise().value);
  }
  Handle release() { return std::exchange(handle_, nullptr); }

 private:
  // Not the Task itself: GCC 12 copies what is awaited, unless it is a variable.
  struct Awaiter {
    Task& task;
    bool await_ready() { return !task.begin(); }
    void await_suspend(std::coroutine_handle<> waiter) {
      task.handle_.promise().continuation = waiter;
    }
    T await_resume() { return task.take(); }
  };

  Handle handle_;
};

namespace internal {

// What can be begun together with others.
template <class Awaited>
concept Startable = requires(Awaited awaited, Group& group) {
  { awaited.begin_in(group) } -> std::same_as<bool>;
};

template <class... Awaited>
class [[nodiscard]] WhenAll {
 public:
  explicit WhenAll(Awaited&&... awaited) : awaited_(std::forward<Awaited>(awaited)...) {}

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) {
    group_.waiter = waiter;
    std::apply([this](auto&... each) { ((group_.unfinished += each.begin_in(group_)), ...); },
               awaited_);
    return group_.unfinished != 0;
  }
  auto await_resume() {
    return std::apply(
        [](auto&... each) { return std::tuple<decltype(result(each))...>{result(each)...}; },
        awaited_);
  }

 private:
  template <class T>
  static auto result(T& awaited) {
    if constexpr (std::is_void_v<decltype(awaited.take())>) {
      awaited.take();
      return std::monostate();
    } else {
      return awaited.take();
    }
  }

  std::tuple<Awaited...> awaited_;
  Group group_;
};

template <class T>
class [[nodiscard]] WhenAllOf {
 public:
  explicit WhenAllOf(std::span<T> awaited) : awaited_(awaited) {}

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) {
    group_.waiter = waiter;
    for (T& each : awaited_) group_.unfinished += each.begin_in(group_);
    return group_.unfinished != 0;
  }
  void await_resume() const noexcept {}

 private:
  const std::span<T> awaited_;
  Group group_;
};

}  // namespace internal

// Runs several at once, until all have ended, and gives the result of each, std::monostate for a
// Task<void>:
//
//   const auto [left, right] = co_await ublk::when_all(io.write(fd0, ...), copy_to(io, fd1));
//
// Each is a Task, or what an Io's function gives. An exception of a Task is thrown when all have
// ended; of several the first one's. With UBLK_MODEL_WORKERS they run one after the other.
template <internal::Startable... Awaited>
auto when_all(Awaited&&... awaited) requires(sizeof...(Awaited) > 0) {
  return internal::WhenAll<Awaited...>(std::forward<Awaited>(awaited)...);
}

// The same for Tasks in an array or vector. Afterwards co_await of each gives its result at once.
template <std::ranges::contiguous_range Tasks>
auto when_all(Tasks& tasks) {
  return internal::WhenAllOf<std::ranges::range_value_t<Tasks>>(std::span(tasks));
}

}  // namespace ublk

#endif  // UBLK_TASK_H
