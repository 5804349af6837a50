// SPDX-License-Identifier: MIT
#include "worker_pool.h"

#include <fcntl.h>
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

thread_local ublk::CompletionBatch* own_completions = nullptr;

}  // namespace

// A thread, or the record of one that has gone. Guarded by the pool's mutex.
struct WorkerPool::Worker {
  explicit Worker(WorkerPool& of) : pool(of) {}
  void flush_completions() {
    if (completions != nullptr) completions->flush_if_left();
  }
  WorkerPool& pool;
  std::list<Worker>::iterator position;
  std::condition_variable ordered;   // `order` is set; or the pool ends
  Order order = Order::kNone;        // what to do next
  bool soon = false;                 // runs an item, or flushes, and counts in soon_
  Client* client = nullptr;          // whose item runs
  Clock::time_point started;         // since then
  std::atomic<bool> in_item{false};  // of run(); the only one that changes without the mutex
  ublk::UniqueFd stat;               // its /proc/self/task/ID/stat
  ublk::CompletionBatch* completions = nullptr;  // its thread's, with a lock of its own
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
unsigned WorkerPool::coming() const {
  return idle_.empty() ? soon_ : soon_ - std::min(starting_, called_);
}

// What must hold whenever the lock is released and an item could run: a thread is on its way, which
// will look at all this again, or one is watching; or else there is none to be had.
WorkerPool::Call WorkerPool::call_if_wanted() {
  if (ready_.empty() || ending_) return {};
  if (wanted() > coming()) return call(Order::kWork);
  watch_wanted_ = true;
  return watcher_ == nullptr && called_ == 0 ? call(Order::kWatch) : Call{};
}

WorkerPool::Call WorkerPool::call(Order order) {
  Call call;
  if (!idle_.empty()) {
    call.worker = &idle_.front();
    active_.splice(active_.begin(), idle_, idle_.begin());
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

// Wake-ups may wait for the next item of a chain: there is one, and somebody watches it.
bool WorkerPool::may_keep_completions(Clock::time_point since, Clock::time_point now) const {
  return watcher_ != nullptr && !ready_.empty() && !ending_ && now - since < kWorthWaking &&
         is_short(ready_.front()->average_);
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
    update(client);
    found = true;
  }
  return found;
}

// --------------------------------------------------------------------- items --

void WorkerPool::work(std::unique_lock<std::mutex>& lock, Worker& self) {
  auto now = Clock::now();
  auto last_flush = now;
  OccupiedTime occupied(kWorthWaking);
  while (!ready_.empty() && !ending_) {
    Item& item = take(self, now);
    const Call next = call_if_wanted();
    lock.unlock();
    if (deliver(next)) now = Clock::now();
    item.run(item);
    const auto end = Clock::now();
    self.in_item.store(false, std::memory_order_relaxed);
    const std::optional<Nanoseconds> duration = occupied.of(end - now);
    if (!lock.try_lock()) {
      occupied.slept_elsewhere();
      lock.lock();
    }
    finish(self, duration);
    now = end;
    if (!self.completions->pending()) {
      last_flush = now;
    } else if (!may_keep_completions(last_flush, now)) {
      // It comes for the next item soon: no other thread is needed for it.
      self.soon = is_short(self.client->average_);
      if (self.soon) ++soon_;
      self.started = now;
      lock.unlock();
      self.completions->flush();
      last_flush = now = Clock::now();
      lock.lock();
      if (std::exchange(self.soon, false)) --soon_;
    }
  }
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

void WorkerPool::finish(Worker& worker, std::optional<Nanoseconds> duration) {
  Client& client = *worker.client;
  if (std::exchange(worker.soon, false)) --soon_;
  if (duration.has_value())
    client.average_ += (std::min(*duration, kLongestCounted) - client.average_) / kAverageOver;
  --running_;
  if (--client.running_ == 0) client.returned_.notify_all();
  update(client);
}

void WorkerPool::Feeder::publish() {
  Call call;
  {
    const std::lock_guard lock(pool_.mutex_);
    while (Item* item = items_.pop()) {
      Client& client = *item->client;
      client.queue_.push(*item);
      ++client.queued_;
      ++pool_.queued_;
      if (items_.empty() || items_.front()->client != &client) pool_.update(client);
    }
    call = pool_.call_if_wanted();
  }
  pool_.deliver(call);
}

// ------------------------------------------------------------------- clients --

WorkerPool::Client::Client(WorkerPool& pool, unsigned workers)
    : pool_(pool), limit_(std::max(workers, 1u)), average_(kWorthWaking) {
  std::unique_lock lock(pool_.mutex_);
  if (pool_.threads_ == 0) {
    pool_.next_start_ = {};
    Worker* worker = pool_.new_worker();
    if (worker == nullptr) throw std::bad_alloc();
    pool_.give(*worker, Order::kWork);
    if (const int error = pool_.start(*worker); error != 0) {
      pool_.cancel(*worker);
      throw std::system_error(error, std::generic_category(), "can't start a worker thread");
    }
  }
  position_ = pool_.unready_.insert(pool_.unready_.end(), this);
  pool_.limits_ += limit_;
}

WorkerPool::Client::~Client() {
  std::unique_lock lock(pool_.mutex_);
  returned_.wait(lock, [this] { return running_ == 0; });
  pool_.queued_ -= std::exchange(queued_, 0);
  pool_.update(*this);
  pool_.unready_.erase(position_);
  pool_.limits_ -= limit_;
}

bool WorkerPool::Client::idle() const {
  const std::lock_guard lock(pool_.mutex_);
  return queued_ == 0 && running_ == 0;
}

WorkerPool::ItemList WorkerPool::Client::drop_queued() {
  const std::lock_guard lock(pool_.mutex_);
  pool_.queued_ -= std::exchange(queued_, 0);
  pool_.update(*this);
  return std::exchange(queue_, {});
}

}  // namespace ublk_runner
