// SPDX-License-Identifier: MIT
#include "worker_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "allowed_cpus.h"
#include "batch_scheduling.h"
#include "block_signals.h"
#include "log.h"
#include "worker_pool_worker.h"

namespace ublk_runner {

namespace {

// Room for a handler that keeps a buffer of some 100 KiB on its stack. Only what is touched takes
// memory, but with locked memory all of it does, and there can be max_threads of them.
constexpr size_t kStackSize = size_t{512} << 10;

constexpr std::chrono::milliseconds kRetryStart{100};

constexpr int kLooksForBound = 8;

thread_local ublk::CompletionBatch* own_completions = nullptr;

}  // namespace

// ------------------------------------------------------------------- threads --

WorkerPool::WorkerPool(const WorkerPoolOptions& options)
    : options_(options), max_short_threads_(std::max(2u, allowed_cpus()) - 1) {}

WorkerPool::~WorkerPool() {
  std::unique_lock lock(mutex_);
  ending_ = true;
  for (Worker& worker : idle_) worker.ordered.notify_one();
  if (watcher_ != nullptr) watcher_->ordered.notify_one();
  ended_.wait(lock, [this] { return threads_ == 0; });
  if (has_last_gone_) pthread_join(last_gone_, nullptr);
}

WorkerPool::Statistics WorkerPool::statistics() const {
  const std::lock_guard lock(mutex_);
  return {threads_, running_, queued_, wakeups_, threads_started_, threads_refused_};
}

// A worker for a new thread, or nullptr if there may be none now.
WorkerPool::Worker* WorkerPool::new_worker() {
  if (threads_ >= std::min(std::max(limits_, 1u), options_.max_threads)) return nullptr;
  if (next_start_ != Clock::time_point{} && Clock::now() < next_start_) return nullptr;
  if (gone_.empty()) {
    try {
      gone_.emplace_front(*this);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }
  active_.splice(active_.begin(), gone_, gone_.begin());
  Worker& worker = active_.front();
  worker.position = active_.begin();
  ++threads_;
  ++starting_;
  return &worker;
}

// Returns 0 or an errno.
int WorkerPool::start(Worker& worker) const {
  pthread_attr_t attributes;
  if (const int error = pthread_attr_init(&attributes); error != 0) return error;
  pthread_attr_setstacksize(&attributes, kStackSize);
  const auto entry = [](void* data) -> void* {
    auto& self = *static_cast<Worker*>(data);
    self.pool.main(self);
    return nullptr;
  };
  const BlockSignals block;
  pthread_t thread;
  const int error = options_.start_thread(&thread, &attributes, entry, &worker);
  pthread_attr_destroy(&attributes);
  return error;
}

// The thread of `worker` could not be made.
void WorkerPool::cancel(Worker& worker) {
  if (watcher_ == &worker) watcher_ = nullptr;
  if (std::exchange(worker.order, Order::kNone) == Order::kWork) {
    --called_;
    --soon_;
  }
  gone_.splice(gone_.begin(), active_, worker.position);
  --threads_;
  --starting_;
  ++threads_refused_;
  next_start_ = Clock::now() + kRetryStart;
}

void WorkerPool::main(Worker& self) {
  pthread_setname_np(pthread_self(), "ublk-work");
  schedule_as_batch();
  ublk::CompletionBatch completions;
  own_completions = &completions;
  const std::string stat = "/proc/self/task/" + std::to_string(gettid()) + "/stat";
  self.stat.reset(open(stat.c_str(), O_RDONLY | O_CLOEXEC));

  std::unique_lock lock(mutex_);
  self.tid = gettid();
  self.bind(kAnyCpu);  // not what the thread was that has made this one
  ++threads_started_;
  --starting_;
  self.completions = &completions;
  while (await_order(lock, self)) work(lock, self);

  self.completions = nullptr;
  gone_.splice(gone_.begin(), idle_, self.position);
  const bool join = std::exchange(has_last_gone_, true);
  const pthread_t before = std::exchange(last_gone_, pthread_self());
  if (--threads_ == 0) ended_.notify_all();
  lock.unlock();
  if (join) pthread_join(before, nullptr);
}

// ------------------------------------------------------------- who is to come --

// After any change of a client's queue, its running items or its average: its place in the order of
// clients and its part of the backlog.
void WorkerPool::update(Client& client) {
  const size_t may_run = std::min<size_t>(client.queued_, client.limit_ - client.running_);
  const Nanoseconds backlog = std::min(client.average_, kWorthWaking) * may_run;
  (client.is_short_ ? short_backlog_ : backlog_) -= client.backlog_;
  client.is_short_ = is_short(client.average_);
  client.backlog_ = backlog;
  (client.is_short_ ? short_backlog_ : backlog_) += client.backlog_;
  const bool ready = may_run != 0;
  if (ready == client.ready_) return;
  client.ready_ = ready;
  auto& from = ready ? unready_ : ready_;
  auto& to = ready ? ready_ : unready_;
  to.splice(to.end(), from, client.position_);
}

unsigned WorkerPool::wanted() const {
  if (ready_.empty()) return 0;
  const auto threads_for = [](Nanoseconds backlog) {
    return (backlog + kWorthWaking - Nanoseconds(1)) / kWorthWaking;
  };
  const auto share =
      threads_for(backlog_) + std::min<int64_t>(threads_for(short_backlog_), max_short_threads_);
  return std::max(1u, static_cast<unsigned>(share));
}

// Of these are on their way already.
unsigned WorkerPool::coming() const { return idle_.empty() ? soon_ : surely_coming(); }

// Without those that are being started.
unsigned WorkerPool::surely_coming() const { return soon_ - std::min(starting_, called_); }

bool WorkerPool::has_little_to_do() const {
  return running_ == 0 && backlog_ == Nanoseconds(0) && short_backlog_ < kWorthWaking;
}

// What must hold whenever the lock is released and an item could run: a thread is on its way, which
// will look at all this again, or one is watching; or else there is none to be had.
WorkerPool::Call WorkerPool::call_if_wanted(int near) {
  if (ready_.empty() || ending_) return {};
  if (wanted() > coming()) return call(Order::kWork, near);
  watch_wanted_ = true;
  return watcher_ == nullptr && called_ == 0 ? call(Order::kWatch) : Call{};
}

// There is one. One that is bound to `near` already, if there is one among the first, else the
// first of all: to bind it costs a system call.
std::list<WorkerPool::Worker>::iterator WorkerPool::idle_worker(int near) {
  int looks = 0;
  for (auto worker = idle_.begin(); worker != idle_.end() && looks < kLooksForBound;
       ++worker, ++looks)
    if (worker->cpu == near) return worker;
  idle_.front().bind(near);
  return idle_.begin();
}

WorkerPool::Call WorkerPool::call(Order order, int near) {
  Call call;
  if (!idle_.empty()) {
    const auto worker = idle_worker(near);
    call.worker = &*worker;
    active_.splice(active_.begin(), idle_, worker);
  } else if (order == Order::kWork && watcher_ != nullptr) {
    call.worker = watcher_;
  } else {
    call.worker = new_worker();
    call.start = true;
    if (call.worker == nullptr) return {};
  }
  if (!call.start) ++wakeups_;
  give(*call.worker, order);
  return call;
}

void WorkerPool::give(Worker& worker, Order order) {
  worker.order = order;
  if (order == Order::kWatch) {
    watcher_ = &worker;
    return;
  }
  if (watcher_ == &worker) watcher_ = nullptr;
  ++called_;
  ++soon_;
}

// Wakes or starts the thread. False if there was nothing to do.
bool WorkerPool::deliver(Call call) {
  if (call.worker == nullptr) return false;
  while (call.worker != nullptr) {
    if (!call.start) {
      call.worker->ordered.notify_one();
      break;
    }
    const int error = start(*call.worker);
    if (error == 0) break;
    if (uint64_t skipped = 0; complaints_.allow(skipped))
      log(LogLevel::kWarning, {}, "can't start another worker thread: %s", strerrordesc_np(error));
    // Others may have relied on that one: who else is there?
    const std::lock_guard lock(mutex_);
    cancel(*call.worker);
    call = call_if_wanted();
  }
  return true;
}

// ------------------------------------------------------------ a thread's life --

// False: the thread is to go.
bool WorkerPool::await_order(std::unique_lock<std::mutex>& lock, Worker& self) {
  for (;;) {
    switch (self.order) {
      case Order::kWork:
        self.order = Order::kNone;
        --called_;
        --soon_;
        return true;
      case Order::kWatch:
        watch(lock, self);
        break;
      case Order::kNone:
        if (!sleep(lock, self)) return false;
        break;
    }
  }
}

bool WorkerPool::sleep(std::unique_lock<std::mutex>& lock, Worker& self) {
  idle_.splice(idle_.begin(), active_, self.position);
  auto deadline = Clock::now() + options_.idle_limit;
  while (self.order == Order::kNone) {
    if (ending_) return false;
    if (self.ordered.wait_until(lock, deadline) == std::cv_status::no_timeout) continue;
    if (self.order != Order::kNone) break;
    if (limits_ == 0 || idle_.size() > 1) return false;
    deadline = Clock::now() + options_.idle_limit;
  }
  return true;
}

ublk::CompletionBatch& WorkerPool::completions() { return *own_completions; }

}  // namespace ublk_runner
