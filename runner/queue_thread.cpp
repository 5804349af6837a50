// SPDX-License-Identifier: MIT
#include "queue_thread.h"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <string>

#include "allowed_cpus.h"
#include "batch_scheduling.h"
#include "block_signals.h"
#include "log.h"
#include "rate_limit.h"

namespace ublk_runner {

namespace {

// A completion queue can't grow. It holds the completions of one turn of the loop: only when more
// tags than this get a request within one turn do the rest take the kernel's overflow list, which
// is slower and loses nothing. That is all tags of 64 devices of 2 x 128 at once, for 256 KiB of
// memory a thread.
constexpr unsigned kCompletionEntries = 16384;

constexpr uint64_t kMarkMask = uint64_t{0xffff} << 48;

}  // namespace

// --------------------------------------------------------------- one thread --

QueueThread::QueueThread(const MainContext& context, std::shared_ptr<SharedPools> pools,
                         unsigned index, std::chrono::microseconds spin)
    : context_(context),
      pools_(std::move(pools)),
      index_(index),
      feeder_(pools_->workers()),
      spin_(spin) {
  std::promise<void> started;
  const BlockSignals block;
  thread_ = std::thread([this, &started] { main(started); });
  try {
    started.get_future().get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

QueueThread::~QueueThread() {
  post([this] { ending_ = true; });
  thread_.join();
  log(LogLevel::kDebug, {},
      "I/O thread %u: %" PRIu64 " turns, %" PRIu64 " requests completed by other threads, %" PRIu64
      " eventfd writes",
      index_, turns_, ring_->remote_completions(), ring_->wakeups());
  if (spin_.enabled())
    log(LogLevel::kDebug, {},
        "I/O thread %u: looked for work %" PRIu64 " times before a sleep, %" PRIu64 " in vain",
        index_, spin_.tried(), spin_.failed());
  buffers_.reset();
  ring_.reset();
  io_uring_queue_exit(&uring_);
}

void QueueThread::main(std::promise<void>& started) {
  try {
    set_up();
  } catch (...) {
    started.set_exception(std::current_exception());
    return;
  }
  started.set_value();
  serve();
}

void QueueThread::set_up() {
  pthread_setname_np(pthread_self(), ("ublk-io/" + std::to_string(index_)).c_str());
  // A queue thread that took its CPU from who works for it, be that a worker, a thread of a client
  // library or a server on this machine, would do so for each request.
  schedule_as_batch();
  const unsigned file_slots = ublk::Ring::init(&uring_, kCompletionEntries);
  try {
    ring_.emplace(&uring_, file_slots);
    timers_.emplace(*ring_);
    buffers_.emplace(pools_->buffers(), static_cast<Waker&>(*this));
  } catch (...) {
    io_uring_queue_exit(&uring_);
    throw;
  }
}

// Ring::run_once() with more between taking in completions and the sleep.
void QueueThread::serve() {
  RateLimit errors;
  bool worked = false;  // in the last turn
  while (!ending_) {
    if (spin_.enabled() && worked) look_out();
    ring_->prepare_wait();
    if (!visits_.empty()) visit_all();
    const int rc = enter();
    ++turns_;
    clock_.begin_turn();
    ring_->wait_over();
    // No more than there are now: others may come for as long as this goes on, with each submit of
    // a full ring, and none of their places is free before it ends.
    const unsigned ready = io_uring_cq_ready(&uring_);
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(&uring_, head, cqe) {
      if (count == ready) break;
      if (!ring_->dispatch(*cqe)) dispatch(*cqe);
      ++count;
    }
    io_uring_cq_advance(&uring_, count);
    worked = count != 0;

    uint64_t skipped = 0;
    if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY && errors.allow(skipped))
      log(LogLevel::kError, {}, "io_uring_enter: %s", g_strerror(-rc));
  }
}

// What there is to do is under way before. What other threads have completed is taken in here, for
// nothing might come after it; the kernel's is left to enter(). An error of io_uring_enter comes
// there again.
void QueueThread::look_out() {
  do {
    ring_->wait_over();
    if (io_uring_sq_ready(&uring_) != 0) io_uring_submit_and_get_events(&uring_);
    feeder_.flush();
  } while (spin_.wait([this] { return ring_->has_news(); }) && !kernel_has_news() && !ending_);
}

bool QueueThread::kernel_has_news() const {
  return io_uring_cq_ready(&uring_) != 0 ||
         (IO_URING_READ_ONCE(*uring_.sq.kflags) & IORING_SQ_TASKRUN) != 0;
}

// Submits, and waits for completions. Workers are woken after everything else: what they do takes
// longer than what is submitted here. That is put off for one turn at most, since there may be
// something to submit in every turn.
int QueueThread::enter() {
  workers_put_off_ = !workers_put_off_ && !feeder_.empty() && io_uring_sq_ready(&uring_) != 0;
  if (workers_put_off_) return io_uring_submit_and_get_events(&uring_);
  feeder_.flush(!kernel_has_news());
  // look_out() may have found them.
  if (io_uring_cq_ready(&uring_) != 0 && io_uring_sq_ready(&uring_) == 0) return 0;
  return io_uring_submit_and_wait(&uring_, 1);
}

void QueueThread::visit_all() {
  std::erase_if(visits_, [](const std::function<bool()>& visit) { return visit(); });
}

// A buffer has become free for a request of this thread.
void QueueThread::call_soon() noexcept {
  post([this] { buffers_->poll(); });
}

void QueueThread::dispatch(const io_uring_cqe& cqe) {
  if ((cqe.user_data & kMarkMask) == UBLK_EVENT_USER_DATA_MARK) {
    auto* event = reinterpret_cast<ublk_event*>(cqe.user_data & ~kMarkMask);
    event->handle(event, cqe.res, cqe.flags);
  } else {
    timers_->dispatch(cqe);
  }
}

// -------------------------------------------------------------- all threads --

QueueThreads::QueueThreads(const MainContext& context, std::shared_ptr<SharedPools> pools,
                           unsigned count, std::chrono::microseconds spin)
    : context_(context),
      pools_(std::move(pools)),
      spin_(spin),
      placement_(count != 0 ? count : automatic(allowed_cpus())),
      threads_(placement_.threads()) {}

QueueThread& QueueThreads::thread_for(unsigned index, unsigned queues) {
  const unsigned number = placement_.place(index, queues);
  std::unique_ptr<QueueThread>& thread = threads_[number];
  if (thread == nullptr) thread = std::make_unique<QueueThread>(context_, pools_, number, spin_);
  return *thread;
}

Task<> QueueThreads::end(Milliseconds limit, bool some_stay) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + limit;
  std::erase(threads_, nullptr);
  std::vector<Completion<bool>> idle;
  idle.reserve(threads_.size());
  for (const auto& thread : threads_)
    idle.push_back(thread->run([t = thread.get()] { return t->ring().nr_queues() == 0; }));
  for (size_t i = 0; i < threads_.size(); ++i) {
    const auto left = std::chrono::duration_cast<Milliseconds>(deadline - Clock::now());
    bool ends = co_await idle[i].within(context_, left);
    if (ends) ends = co_await idle[i];
    if (ends) continue;
    if (!some_stay)
      log(LogLevel::kWarning, {}, "I/O thread %zu is left behind: its queues have not stopped", i);
    static_cast<void>(threads_[i].release());
  }
  threads_.clear();
}

}  // namespace ublk_runner
