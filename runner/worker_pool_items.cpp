// SPDX-License-Identifier: MIT
//
// What the threads of a WorkerPool do: run items, and watch those that run.
#include <algorithm>
#include <utility>

#include "worker_pool_worker.h"

namespace ublk_runner {

namespace {

// A running average gives 1/8 to the last item. The weight of one item is bounded, so that a single
// long one makes its client a blocking one, but a few short ones then undo that, however long it
// was.
constexpr int kAverageOver = 8;
constexpr WorkerPool::Nanoseconds kLongestCounted = WorkerPool::kWorthWaking * kAverageOver;

// After that long without need the watcher sleeps: seldom enough that waking it again is no cost.
constexpr int kQuietLooks = 5;
constexpr WorkerPool::Nanoseconds kLongestWatchInterval = 8 * WorkerPool::kWatchInterval;

// So many completions of one client are worth a flush, even if they take longer than kWorthWaking
// to gather; but not longer than that.
constexpr unsigned kWorthFlushing = 16;
constexpr WorkerPool::Nanoseconds kLongestChain = 8 * WorkerPool::kWorthWaking;

// A client that had no item block for so many may well have none at all.
constexpr unsigned kSurelyShort = 1000;

}  // namespace

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

// Completions may wait for the next item of a chain: there is one, and somebody watches it. A
// client's own may wait for longer than others': it gets along with what it has in flight.
bool WorkerPool::may_keep(const Chain& chain, Clock::time_point now) const {
  if (watcher_ == nullptr || !has_work() || !is_short(ready_.front()->average_)) return false;
  const bool is_own = !chain.is_mixed && ready_.front() == chain.client;
  const bool wait_longer = is_own && chain.items < kWorthFlushing;
  return now - chain.since < (wait_longer ? kLongestChain : kWorthWaking);
}

// ------------------------------------------------------------------ watching --

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

}  // namespace ublk_runner
