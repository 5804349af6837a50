// SPDX-License-Identifier: MIT
#include "worker_pool.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "allowed_cpus.h"
#include "block_signals.h"
#include "log.h"
#include "thread_time.h"

namespace ublk_runner {

namespace {

// Room for a handler that keeps a buffer of some 100 KiB on its stack. Only what is touched takes
// memory, but with locked memory all of it does, and there can be max_threads of them.
constexpr size_t kStackSize = size_t{512} << 10;

// A running average gives 1/8 to the last item. The weight of one item is bounded, so that a single
// long one makes its client a blocking one, but a few short ones then undo that, however long it
// was.
constexpr int kAverageOver = 8;
constexpr WorkerPool::Nanoseconds kLongestCounted = WorkerPool::kWorthWaking * kAverageOver;

// After that long without need the watcher sleeps: seldom enough that waking it again is no cost.
constexpr int kQuietLooks = 5;
constexpr WorkerPool::Nanoseconds kLongestWatchInterval = 8 * WorkerPool::kWatchInterval;

constexpr std::chrono::milliseconds kRetryStart{100};

constexpr int kLooksForBound = 8;

// So many completions of one client are worth a flush, even if they take longer than kWorthWaking
// to gather; but not longer than that.
constexpr unsigned kWorthFlushing = 16;
constexpr WorkerPool::Nanoseconds kLongestChain = 8 * WorkerPool::kWorthWaking;

// A client that had no item block for so many may well have none at all.
constexpr unsigned kSurelyShort = 1000;

thread_local ublk::CompletionBatch* own_completions = nullptr;

}  // namespace

// A thread, or the record of one that has gone. Guarded by the pool's mutex.
struct WorkerPool::Worker {
  explicit Worker(WorkerPool& of) : pool(of) {}
  void flush_completions() {
    if (completions != nullptr) completions->flush_if_left();
  }
  // `to`: a CPU, or kAnyCpu for all that the calling thread may use.
  void bind(int to) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (to != kAnyCpu)
      CPU_SET(to, &cpus);
    else
      sched_getaffinity(0, sizeof(cpus), &cpus);
    cpu = sched_setaffinity(tid, sizeof(cpus), &cpus) == 0 ? to : kAnyCpu;
  }
  WorkerPool& pool;
  std::list<Worker>::iterator position;
  pid_t tid = 0;
  int cpu = kAnyCpu;                 // that it is bound to
  std::condition_variable ordered;   // `order` is set; or the pool ends
  Order order = Order::kNone;        // what to do next
  bool soon = false;                 // runs an item, or flushes, and counts in soon_
  Client* client = nullptr;          // whose item runs
  Clock::time_point started;         // since then
  std::atomic<bool> in_item{false};  // of run(); the only one that changes without the mutex
  ublk::UniqueFd stat;               // its /proc/self/task/ID/stat
  ublk::CompletionBatch* completions = nullptr;  // its thread's, with a lock of its own
  WaitingTime waiting{kWorthWaking / 2};         // its thread's, which alone uses it
};

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
  // A container may refuse it; then it has to go without.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  ublk::CompletionBatch completions;
  own_completions = &completions;
  const std::string stat = "/proc/self/task/" + std::to_string(gettid()) + "/stat";
  self.stat.reset(open(stat.c_str(), O_RDONLY | O_CLOEXEC));

  std::unique_lock lock(mutex_);
  self.tid = gettid();
  self.cpu = kAnyCpu;
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

void WorkerPool::watch(std::unique_lock<std::mutex>& lock, Worker& self) {
  auto interval = kWatchInterval;
  auto next_look = Clock::now() + interval;
  for (int quiet = 0; quiet < kQuietLooks && !ending_;) {
    const auto status = self.ordered.wait_until(lock, next_look);
    if (self.order == Order::kWork) break;
    if (status == std::cv_status::no_timeout) continue;
    const auto now = Clock::now();
    interval =
        find_long_items(now) ? kWatchInterval : std::min(2 * interval, kLongestWatchInterval);
    next_look = now + interval;
    if (wanted() > coming()) {
      give(self, Order::kWork);
      break;
    }
    const bool needed = std::exchange(watch_wanted_, false) || !ready_.empty();
    quiet = needed ? 0 : quiet + 1;
  }
  if (self.order == Order::kWatch) {
    watcher_ = nullptr;
    self.order = Order::kNone;
  }
  // Nobody sees to those any more; they were kept back while somebody did. A worker that is in
  // complete() just now, which is the last thing that an item does, will see that by itself.
  for (Worker& worker : active_) worker.flush_completions();
}

// Completions may wait for the next item of a chain: there is one, and somebody watches it. A
// client's own may wait for longer than others': it gets along with what it has in flight.
bool WorkerPool::may_keep(const Chain& chain, Clock::time_point now) const {
  if (watcher_ == nullptr || !has_work() || !is_short(ready_.front()->average_)) return false;
  const bool is_own = !chain.is_mixed && ready_.front() == chain.client;
  const bool wait_longer = is_own && chain.items < kWorthFlushing;
  return now - chain.since < (wait_longer ? kLongestChain : kWorthWaking);
}

ublk::CompletionBatch& WorkerPool::completions() { return *own_completions; }

// Running items that were thought to be short and are not, or not any more.
bool WorkerPool::find_long_items(Clock::time_point now) {
  bool found = false;
  for (Worker& worker : active_) {
    if (now - worker.started < kWorthWaking) continue;
    worker.flush_completions();
    if (!worker.soon) continue;
    const bool flushes = !worker.in_item.load(std::memory_order_relaxed);
    if (flushes ? now - worker.started < kWatchInterval : wants_cpu(worker.stat.get())) continue;
    worker.soon = false;
    --soon_;
    if (flushes) continue;
    Client& client = *worker.client;
    client.average_ = std::max(client.average_, kWorthWaking);
    client.since_blocked_ = 0;
    update(client);
    found = true;
  }
  return found;
}

// --------------------------------------------------------------------- items --

// For this thread. One more than there are CPUs for short items would only take their CPU from the
// others, and completions out of their chains; unless some block now and then, for then there is a
// thread that goes on. No item is left without a thread: each that is relied on asks this again,
// with the lock held, before it goes, and the last one relies on nobody.
bool WorkerPool::has_work() const {
  if (ready_.empty() || ending_) return false;
  return backlog_ != Nanoseconds(0) || ready_.front()->since_blocked_ < kSurelyShort ||
         surely_coming() < max_short_threads_;
}

void WorkerPool::work(std::unique_lock<std::mutex>& lock, Worker& self) {
  auto now = Clock::now();
  Chain chain{.since = now};
  self.waiting.begin();
  while (has_work()) {
    Item& item = take(self, now);
    const Call next = call_if_wanted();
    lock.unlock();
    if (deliver(next)) now = Clock::now();
    item.run(item);
    const auto end = Clock::now();
    self.in_item.store(false, std::memory_order_relaxed);
    const std::optional<Nanoseconds> waited = self.waiting.of(end - now);
    if (!lock.try_lock()) {
      self.waiting.slept_elsewhere();
      lock.lock();
    }
    finish(self, waited);
    now = end;
    chain.add(self.client);
    if (!self.completions->pending()) {
      chain = {.since = now};
    } else if (!may_keep(chain, now)) {
      // It comes for the next item soon: no other thread is needed for it.
      self.soon = is_short(self.client->average_);
      if (self.soon) ++soon_;
      self.started = now;
      lock.unlock();
      self.completions->flush();
      now = Clock::now();
      chain = {.since = now};
      lock.lock();
      if (std::exchange(self.soon, false)) --soon_;
    }
  }
  // For what is left others come. Should they hang first, the one that watches sees it.
  if (ready_.empty() || ending_) return;
  watch_wanted_ = true;
  if (watcher_ == nullptr) give(self, Order::kWatch);
}

WorkerPool::Item& WorkerPool::take(Worker& worker, Clock::time_point now) {
  Client& client = *ready_.front();
  ready_.splice(ready_.end(), ready_, ready_.begin());
  Item& item = *client.queue_.pop();
  --client.queued_;
  --queued_;
  ++client.running_;
  ++running_;
  worker.client = &client;
  worker.started = now;
  worker.in_item.store(true, std::memory_order_relaxed);
  worker.soon = client.average_ < kWorthWaking;
  if (worker.soon) ++soon_;
  update(client);
  return item;
}

void WorkerPool::finish(Worker& worker, std::optional<Nanoseconds> waited) {
  Client& client = *worker.client;
  if (std::exchange(worker.soon, false)) --soon_;
  if (waited.has_value()) {
    client.average_ += (std::min(*waited, kLongestCounted) - client.average_) / kAverageOver;
    client.since_blocked_ =
        *waited < kWorthWaking ? std::min(client.since_blocked_ + 1, kSurelyShort) : 0;
  }
  --running_;
  if (--client.running_ == 0) client.returned_.notify_all();
  update(client);
}

}  // namespace ublk_runner
