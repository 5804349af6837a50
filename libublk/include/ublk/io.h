// SPDX-License-Identifier: MIT
//
// One I/O in the hands of a handler, and what its coroutines can await (see <ublk/task.h>).
//
// What they await is done by the queue's ring with UBLK_MODEL_RING, while the thread serves other
// requests, and with UBLK_MODEL_WORKERS at once, by calls that block. The result of each is that of
// the system call, or -errno. It is not looked at: a read may be short, and who wants to try again
// after an EINTR does so.
//
// When the device is to go, and the request has had its time, what it awaits is cancelled: the
// result is -ECANCELED, unless it ended just then. So it is with all that it awaits from then on;
// nothing more is begun.
#ifndef UBLK_IO_H
#define UBLK_IO_H

#include <sys/eventfd.h>
#include <ublk/handler.h>
#include <ublk/io_calls.h>
#include <ublk/task.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <type_traits>
#include <utility>

namespace ublk {

class Io;

namespace internal {

// What the requests of an instance share.
class CoroutineHost {
 public:
  CoroutineHost(const ublk_host& runner, ublk_device* device, uint32_t frame_size)
      : host(runner), frame_size(frame_size), device_(device) {}
  ~CoroutineHost() {
    if (stop_fd_ >= 0) close(stop_fd_);
  }
  CoroutineHost(const CoroutineHost&) = delete;
  CoroutineHost& operator=(const CoroutineHost&) = delete;

  // They block from now on. Before the first of them. Throws std::system_error.
  void block() {
    if (stop_fd_ < 0) stop_fd_ = eventfd(0, EFD_CLOEXEC);
    if (stop_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  bool blocks() const { return stop_fd_ >= 0; }

  // Any thread: ends those that block, and lets no more begin.
  void stop() {
    stopped_.store(true, std::memory_order_relaxed);
    static_cast<void>(eventfd_write(stop_fd_, 1));
  }
  template <class Call>
  int run(Call& call) const {
    return stopped_.load(std::memory_order_relaxed) ? -ECANCELED : call.call(stop_fd_);
  }

  // Any thread.
  void tell_of_heap(size_t bytes) {
    if (!told_.exchange(true, std::memory_order_relaxed))
      host.log(device_, UBLK_LOG_WARNING,
               "coroutine frames are allocated: they take %zu bytes, kFrameSize is %u", bytes,
               frame_size);
  }

  const ublk_host& host;
  const uint32_t frame_size;  // bytes of each request

 private:
  ublk_device* const device_;
  int stop_fd_ = -1;  // readable once it is stopped
  std::atomic<bool> stopped_{false};
  std::atomic<bool> told_{false};
};

// The end of something on the ring, which a coroutine awaits. In the coroutine's frame.
struct Wait : ublk_event {
  explicit Wait(Io& request) : ublk_event{}, io(&request), waiter{} {}

  // For `handle`: the one who waits is the coroutine, or the group.
  static void ended(ublk_event* event, int32_t result, uint32_t flags) noexcept;
  static void ended_in_group(ublk_event* event, int32_t result, uint32_t flags) noexcept;
  // The same for what has been cancelled, and for what stands in for what is not to begin.
  template <auto then>
  static void cancelled(ublk_event* event, int32_t result, uint32_t flags) noexcept {
    then(event, result == -EINTR ? -ECANCELED : result, flags);
  }
  template <auto then>
  static void not_begun(ublk_event* event, int32_t, uint32_t flags) noexcept {
    then(event, -ECANCELED, flags);
  }

  Io* io;
  Wait* next = nullptr;  // of the same request
  union {
    std::coroutine_handle<> waiter;
    Group* group;
  };
  int32_t result = 0;
};

// co_await does the call, and gives its result; again and again, if one likes.
template <class Call>
class [[nodiscard]] Operation : private Wait {
 public:
  Operation(Io& request, const Call& call) : Wait(request), call_(call) {}

  bool await_ready();
  bool await_suspend(std::coroutine_handle<> coroutine) {
    waiter = coroutine;
    return begin_on_ring<Wait::ended>();
  }
  int await_resume() const { return take(); }

  bool begin_in(Group& with_others) {
    if (await_ready()) return false;
    group = &with_others;
    return begin_on_ring<Wait::ended_in_group>();
  }
  int take() const {
    if constexpr (requires { Call::result(0); })
      return Call::result(result);
    else
      return result;
  }

 private:
  [[gnu::noinline]] bool block();
  template <auto then>
  bool begin_on_ring();

  Call call_;
};

// Data of the request, by the host's functions.
struct MoveData {
  int start(const ublk_host& host, ublk_queue* queue, ublk_event& event) const {
    return host.move_on_ring(queue, request, memory, length, offset, &event);
  }
  int call(int) const {
    return request->op == UBLK_OP_WRITE ? host->read_data(request, memory, length, offset)
                                        : host->write_data(request, memory, length, offset);
  }

  const ublk_host* host;
  const ublk_request* request;
  void* memory;
  uint32_t length;
  uint32_t offset;
};

}  // namespace internal

// One request. For a coroutine it is there until the coroutine has ended. A plain function that
// wants to answer later keeps id() and what else it needs, and returns UBLK_PENDING: the Io is gone
// when the function returns.
class Io : public FrameArena {
 public:
  Io(const ublk_host& host, ublk_queue* queue, ublk_request& request)
      : host_(host), queue_(queue), request_(request) {}

  uint64_t id() const { return request_.id; }
  uint64_t offset() const { return request_.offset; }  // bytes
  uint32_t length() const { return request_.length; }  // bytes
  bool fua() const { return request_.flags & UBLK_REQUEST_FUA; }
  bool no_unmap() const { return request_.flags & UBLK_REQUEST_NO_UNMAP; }
  std::byte* data() const { return static_cast<std::byte*>(request_.buffer); }
  // Zero copy: see ublk_request.buffer_index; -1: the data is at data().
  int buffer_index() const { return request_.buffer_index; }
  // data() is the tag's own: see UBLK_REQUEST_TAG_BUFFER.
  bool tag_buffer() const { return request_.flags & UBLK_REQUEST_TAG_BUFFER; }
  ublk_queue* queue() const { return queue_; }
  ublk_request& request() const { return request_; }

  // With kMovesData: see ublk_host.read_data, write_data and move_on_ring.
  int read_data(void* to, uint32_t length, uint32_t offset) const {
    return host_.read_data(&request_, to, length, offset);
  }
  int write_data(const void* from, uint32_t length, uint32_t offset) const {
    return host_.write_data(&request_, from, length, offset);
  }
  int move_on_ring(void* memory, uint32_t length, uint32_t offset, ublk_event& event) const {
    return host_.move_on_ring(queue_, &request_, memory, length, offset, &event);
  }

  // The tag's own state: kScratchSize bytes that were zero when the queue opened.
  template <class T>
  T& scratch() const {
    static_assert(std::is_trivially_destructible_v<T>);
    return *static_cast<T*>(request_.scratch);
  }

  // ------------------------------------------------------------ for coroutines, to co_await --

  // Of the file's bytes from `offset` on. Memory in [data(), data() + length()) is the request's,
  // also if it is registered in the ring (zero copy). `flags` are RWF_*, see pwritev2(2).
  auto read(int fd, void* to, uint32_t length, uint64_t offset) {
    return run(internal::Read{fd, buffer_at(to), to, offset, length});
  }
  auto write(int fd, const void* from, uint32_t length, uint64_t offset, int flags = 0) {
    return run(internal::Write{fd, buffer_at(from), from, offset, length, flags});
  }
  auto fsync(int fd) { return run(internal::Sync{fd, false}); }
  auto fdatasync(int fd) { return run(internal::Sync{fd, true}); }
  auto fallocate(int fd, int mode, uint64_t offset, uint64_t length) {
    return run(internal::Fallocate{fd, mode, offset, length});
  }
  // Of a block device. On the ring since Linux 6.12; -EOPNOTSUPP before.
  auto discard(int fd, uint64_t offset, uint64_t length) {
    return run(internal::Discard{fd, offset, length});
  }
  // Until fd has one of the events of poll(2), or an error; gives the events.
  auto poll(int fd, short events) { return run(internal::Poll{fd, events}); }
  // Gives 0 when the time is over; by CLOCK_MONOTONIC.
  auto sleep(std::chrono::nanoseconds duration) { return run(internal::Sleep(duration)); }
  // Gives 0 when the thread has looked after other requests.
  auto nop() { return run(internal::Nop{}); }
  // Any SQE that has one CQE: prepare(io_uring_sqe&) fills in zeroes, but for user_data. What it
  // points to must stay. -EOPNOTSUPP with UBLK_MODEL_WORKERS.
  template <std::invocable<io_uring_sqe&> Prepare>
  auto submit(Prepare prepare) {
    return run(internal::OwnSqe<Prepare>{prepare});
  }
  // With kMovesData: moves part of the request's data to or from `memory`, whichever way the
  // request goes. Gives `length`, or -errno as ublk_host.read_data and write_data do.
  auto move_data(void* memory, uint32_t length, uint32_t offset) {
    return run(internal::MoveData{&host_, &request_, memory, length, offset});
  }

  // ------------------------------------------------------------- for what runs coroutines --

  // Its coroutines' frames lie in `frames`, host.frame_size bytes.
  Io(internal::CoroutineHost& host, ublk_queue* queue, ublk_request& request, void* frames)
      : FrameArena(frames, host.frame_size),
        host_(host.host),
        queue_(queue),
        request_(request),
        coroutines_(&host),
        mode_(host.blocks() ? Mode::kBlocking : Mode::kRing) {}

  // Runs the request's first coroutine; gives its result, or UBLK_PENDING and completes the request
  // when it has ended.
  int start(Task<int> task) noexcept {
    if (!task.begin()) return end(task);
    first_ = task.release();
    return UBLK_PENDING;
  }

  // Cancels what it awaits.
  void cancel() noexcept {
    if (mode_ != Mode::kRing) return;
    mode_ = Mode::kCancelled;
    cancellation_.handle = [](ublk_event* event, int32_t, uint32_t) {
      Io& io = *static_cast<Cancellation*>(event)->io;
      --io.nr_cancellations_;
      io.settle();
    };
    cancellation_.io = this;
    for (internal::Wait* wait = waits_; wait != nullptr; wait = wait->next) {
      using internal::Wait;
      wait->handle = wait->handle == Wait::ended ? Wait::cancelled<Wait::ended>
                                                 : Wait::cancelled<Wait::ended_in_group>;
      io_uring_sqe& sqe = *host_.get_sqe(queue_);
      sqe.opcode = IORING_OP_ASYNC_CANCEL;
      sqe.fd = -1;
      sqe.addr = ublk_event_user_data(wait);
      sqe.user_data = ublk_event_user_data(&cancellation_);
      ++nr_cancellations_;
    }
  }

 private:
  friend struct internal::Wait;
  template <class Call>
  friend class internal::Operation;

  enum class Mode : uint8_t { kRing, kBlocking, kCancelled };
  // The end of a cancellation's SQE.
  struct Cancellation : ublk_event {
    Io* io;
  };

  template <class Call>
  internal::Operation<Call> run(const Call& call) {
    return {*this, call};
  }

  int buffer_at(const void* memory) const {
    const uintptr_t in_data =
        reinterpret_cast<uintptr_t>(memory) - reinterpret_cast<uintptr_t>(request_.buffer);
    return in_data < request_.length ? request_.buffer_index : -1;
  }

  void begun(internal::Wait& wait) {
    wait.next = waits_;
    waits_ = &wait;
  }
  void ended(internal::Wait& wait) {
    internal::Wait** link = &waits_;
    while (*link != &wait) link = &(*link)->next;
    *link = wait.next;
  }

  // After each event: completes the request if that was the last.
  void settle() noexcept {
    if (!first_.done() || nr_cancellations_ != 0) return;
    const uint64_t id = request_.id;
    int result;
    {
      Task<int> task(std::exchange(first_, nullptr));
      result = end(task);
    }
    host_.complete(id, result);
  }

  int end(Task<int>& task) noexcept {
    if (lacking_size() != 0) [[unlikely]]
      coroutines_->tell_of_heap(lacking_size());
    try {
      return task.take();
    } catch (...) {
      return -EIO;
    }
  }

  const ublk_host& host_;
  ublk_queue* const queue_;
  ublk_request& request_;

  internal::CoroutineHost* const coroutines_ = nullptr;
  internal::Wait* waits_ = nullptr;  // all that is under way
  Task<int>::Handle first_;
  Mode mode_ = Mode::kRing;
  uint32_t nr_cancellations_ = 0;  // under way
  Cancellation cancellation_;
};

namespace internal {

inline void Wait::ended(ublk_event* event, int32_t result, uint32_t) noexcept {
  Wait& wait = static_cast<Wait&>(*event);
  Io& io = *wait.io;
  io.ended(wait);
  wait.result = result;
  wait.waiter.resume();
  io.settle();
}

inline void Wait::ended_in_group(ublk_event* event, int32_t result, uint32_t) noexcept {
  Wait& wait = static_cast<Wait&>(*event);
  Io& io = *wait.io;
  io.ended(wait);
  wait.result = result;
  wait.group->one_ended().resume();
  io.settle();
}

template <class Call>
inline bool Operation<Call>::await_ready() {
  if (io->mode_ == Io::Mode::kBlocking) return block();
  return false;
}

template <class Call>
bool Operation<Call>::block() {
  // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): whoever blocks has a host of coroutines
  result = io->coroutines_->run(call_);
  return true;
}

// False: it has ended at once.
template <class Call>
template <auto then>
bool Operation<Call>::begin_on_ring() {
  io_uring_sqe* sqe = nullptr;
  handle = then;
  if (io->mode_ == Io::Mode::kCancelled) [[unlikely]] {
    handle = Wait::not_begun<then>;
    sqe = io->host_.get_sqe(io->queue_);
    Nop::prepare(*sqe);
  } else if constexpr (requires { call_.prepare(*sqe); }) {
    sqe = io->host_.get_sqe(io->queue_);
    call_.prepare(*sqe);
  } else {
    result = call_.start(io->host_, io->queue_, *this);
    if (result != UBLK_PENDING) return false;
  }
  if (sqe != nullptr) sqe->user_data = ublk_event_user_data(this);
  io->begun(*this);
  return true;
}

}  // namespace internal
}  // namespace ublk

#endif  // UBLK_IO_H
