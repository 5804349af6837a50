// SPDX-License-Identifier: MIT
//
// The threads on which handlers that may block (UBLK_MODEL_WORKERS) serve requests: one pool for
// the process, shared by all devices.
//
//   WorkerPool pool;
//   WorkerPool::Client client(pool, 16);   // a device: at most 16 of its items run at once
//   WorkerPool::Feeder feeder(pool);       // a queue thread
//
//   item.run = [](WorkerPool::Item& item) noexcept { ... may block ... };
//   feeder.add(client, item);              // for each request of this turn of the loop
//   feeder.flush();                        // once, before the loop sleeps
//
// Order: the items of one feeder for one client start in the order in which they were added.
// Between clients it is round robin over those that have an item and are below their limit, so a
// client whose items all hang occupies as many threads as its limit says and holds up nobody else.
//
// Threads are made when more are wanted than there are, up to the sum of the clients' limits and at
// most WorkerPoolOptions::max_threads; only when that many items hang at once do other clients
// wait. A thread that was idle for idle_limit goes away, apart from one that is kept idle while
// there are clients: memory that is to be written to our own disk may be what a new thread would
// need. If no thread can be made the items wait for those that are there, and each later wish for
// a thread tries again, at most every 100 ms.
//
// How many threads are woken. A wake-up costs more than a short item, and a blocking item must not
// have others wait behind it. So the pool learns how long the items of a client take (a running
// average, at first taken to be long; an item that turns out to need the CPU all the time counts as
// a short one), and wants one thread for each kWorthWaking of work that is queued; an item that
// takes longer than that counts for one thread. Short items use their CPU all the time: for them no
// more threads are wanted than there are CPUs, less one for the queue threads that feed them. From
// what is wanted it takes off the threads that were woken and are not there yet, and those that run
// a short item, for they soon come for the next one by themselves. (One that is being started is
// not relied on if another sleeps: starting takes memory and time.) A woken thread wakes the next
// before it runs its item, so flush() wakes one at most. A thread takes items as long as there are
// any; but where all that wait are short, and none of the last 1000 of the client whose turn it is
// has blocked, it goes if as many others come for them as have a CPU.
//
// Where they run. The kernel lets a woken thread run on an idle CPU if there is one. For a few
// short items that is the wrong place: to wake a CPU, and to bring there what the queue thread has
// in its caches, takes longer than they do, all the more in a virtual machine. So if the queue
// thread is about to sleep, and there is nothing else to do, the thread that is woken is bound to
// the queue thread's CPU; when it is woken for more it may use all CPUs again.
//
// Neither these threads nor the queue threads that feed them take a CPU from a thread that runs
// (batch_scheduling.h): a queue thread that interrupted a worker for each request that comes would
// pass on one at a time, and half of all time would go into switching. So a thread that is bound to
// the queue thread's CPU runs when that one sleeps, or when its time is over.
//
// The average can be wrong: the item that was to be short hangs. So while items wait for a thread
// that is busy, one idle thread watches: it looks at the running items, every kWatchInterval at
// first and less often while it finds nothing, up to 8 times that, and those that have turned out
// to block count as long from then on. What waits behind an item that blocks for the first time
// therefore waits for some milliseconds, and then not any more. Time in which a thread that has not
// slept wanted to run and had no CPU does not make its item long: more threads would only make it
// worse.
//
// Requests that items complete by completions() are committed, or wake their ring's thread, once
// for a chain of short items: after kWorthWaking, or, while all are of one client and it has more
// queued, after 16 of them or 8 times kWorthWaking. The thread that watches sees to it that an item
// which hangs in such a chain does not keep them back.
//
// Nothing is allocated for an item. Adding one takes no lock, flush() takes one for all, and a
// thread takes one for each item it runs.
#ifndef UBLK_RUNNER_WORKER_POOL_H
#define UBLK_RUNNER_WORKER_POOL_H

#include <pthread.h>
#include <ublk/completion_batch.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>

#include "rate_limit.h"

namespace ublk_runner {

struct WorkerPoolOptions {
  unsigned max_threads = 1024;
  std::chrono::milliseconds idle_limit{5000};
  // As pthread_create; for tests.
  int (*start_thread)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) = pthread_create;
};

class WorkerPool {
 public:
  using Nanoseconds = std::chrono::nanoseconds;
  class Client;
  class Feeder;

  // One piece of work, a part of something that the caller owns. It is the pool's from add() until
  // run() is called or drop_queued() has returned it; run() may free it or add it again. All zero
  // is a valid item, but for `run`.
  struct Item {
    void (*run)(Item& item) noexcept = nullptr;
    Client* client = nullptr;  // set by add()
    Item* next = nullptr;      // the pool's, or the list's that it is in
  };

  // Items in order, linked through themselves.
  class ItemList {
   public:
    bool empty() const { return first_ == nullptr; }
    Item* front() const { return first_; }
    void push(Item& item);
    Item* pop();  // nullptr: empty

   private:
    Item* first_ = nullptr;
    Item* last_ = nullptr;
  };

  struct Statistics {
    unsigned threads;          // that exist
    unsigned busy;             // that run an item
    size_t queued;             // items that are published and not started
    uint64_t wakeups;          // of sleeping threads, ever
    uint64_t threads_started;  // ever
    uint64_t threads_refused;  // by the system, ever
  };

  static constexpr Nanoseconds kWorthWaking{50'000};
  static constexpr Nanoseconds kWatchInterval{500'000};

  explicit WorkerPool(const WorkerPoolOptions& options = {});
  // All clients and feeders must have gone. Waits for all threads to end.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // For an item's run(): the completions of its thread, which are flushed soon after it.
  static ublk::CompletionBatch& completions();

  Statistics statistics() const;  // any thread

 private:
  using Clock = std::chrono::steady_clock;
  struct Worker;
  enum class Order : uint8_t { kNone, kWork, kWatch };
  static constexpr int kAnyCpu = -1;

  // A thread to be woken, or to be started, once the lock has been released.
  struct Call {
    Worker* worker = nullptr;
    bool start = false;
  };

  // The items that a thread has run since its completions were flushed.
  struct Chain {
    Clock::time_point since;
    const Client* client = nullptr;  // of the first; only to be compared
    unsigned items = 0;
    bool is_mixed = false;  // with those of others

    void add(const Client* of) {
      if (items++ == 0) client = of;
      is_mixed |= client != of;
    }
  };

  // With mutex_ held:
  void update(Client& client);
  unsigned wanted() const;
  unsigned coming() const;
  unsigned surely_coming() const;
  bool has_little_to_do() const;
  Call call_if_wanted(int near = kAnyCpu);
  Call call(Order order, int near = kAnyCpu);
  std::list<Worker>::iterator idle_worker(int near);
  Worker* new_worker();
  void give(Worker& worker, Order order);
  void cancel(Worker& worker);
  Item& take(Worker& worker, Clock::time_point now);
  void finish(Worker& worker, std::optional<Nanoseconds> waited);
  bool find_long_items(Clock::time_point now);
  bool has_work() const;
  bool may_keep(const Chain& chain, Clock::time_point now) const;
  // With mutex_ held, which they release meanwhile:
  void work(std::unique_lock<std::mutex>& lock, Worker& self);
  bool await_order(std::unique_lock<std::mutex>& lock, Worker& self);
  bool sleep(std::unique_lock<std::mutex>& lock, Worker& self);
  void watch(std::unique_lock<std::mutex>& lock, Worker& self);
  // Without it:
  bool deliver(Call call);
  int start(Worker& worker) const;
  void main(Worker& self);

  static bool is_short(Nanoseconds average) { return average < kWorthWaking / 2; }

  const WorkerPoolOptions options_;
  const unsigned max_short_threads_;
  RateLimit complaints_;

  // Guards all below, all of the clients and all of the workers. A leaf, but for that of a
  // CompletionBatch: with it held nothing is called but the functions above, and no thread of the
  // pool is woken or started, but for the first one. What was written before flush() is seen by
  // run(), for both take it.
  mutable std::mutex mutex_;

  // Clients that have an item which may run now, the next in turn first; and all others.
  std::list<Client*> ready_;
  std::list<Client*> unready_;
  unsigned limits_ = 0;     // sum of the clients'
  Nanoseconds backlog_{0};  // work of the ready items, an item counting for kWorthWaking at most
  Nanoseconds short_backlog_{0};  // that of short ones, which is not in the former

  // Every worker is in one of these. None is freed before the pool, so that one may be woken after
  // the lock has been released, even if it has gone meanwhile.
  std::list<Worker> idle_;    // asleep, the one that worked last first
  std::list<Worker> active_;  // called, running an item, or watching
  std::list<Worker> gone_;    // records for further threads
  Worker* watcher_ = nullptr;
  bool watch_wanted_ =
      false;  // since the watcher has last looked items have waited for busy threads

  unsigned threads_ = 0;
  unsigned called_ = 0;    // told to work, and not there yet
  unsigned soon_ = 0;      // called, running a short item, or flushing after one
  unsigned starting_ = 0;  // made, and not there yet
  unsigned running_ = 0;   // items
  size_t queued_ = 0;
  uint64_t wakeups_ = 0;
  uint64_t threads_started_ = 0;
  uint64_t threads_refused_ = 0;
  Clock::time_point next_start_{};  // no thread is started before: one was refused

  bool ending_ = false;
  std::condition_variable ended_;  // threads_ is 0
  bool has_last_gone_ = false;
  pthread_t last_gone_{};  // every thread that goes joins the one that went before it
};

// A device's share of the pool. Any thread may call, unless it says otherwise.
class WorkerPool::Client {
 public:
  // At most `workers` (at least 1) items run at once. Throws std::system_error if the pool has no
  // thread and can't make one.
  Client(WorkerPool& pool, unsigned workers);
  // No item may be queued or with a feeder. Waits for running ones: a request can be completed, and
  // its device be torn down, when the item that completed it has not quite returned. Not from an
  // item of this client.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // No item is queued or running. Those that a feeder has not flushed don't count.
  bool idle() const;

  // Takes back all items that are queued and have not started, in order. They are the caller's
  // again, and none of them runs. Running ones go on. Never waits.
  ItemList drop_queued();
  // Likewise those of them that `takes` says. It is called for each with the pool's lock held.
  ItemList drop_queued(const std::function<bool(Item&)>& takes);

 private:
  friend class WorkerPool;

  WorkerPool& pool_;
  const unsigned limit_;
  // The rest is guarded by the pool's mutex.
  ItemList queue_;
  size_t queued_ = 0;
  unsigned running_ = 0;
  Nanoseconds average_;         // how long an item runs
  unsigned since_blocked_ = 0;  // so many have run since
  bool is_short_ = false;
  Nanoseconds backlog_{0};  // its part of the pool's, of short_backlog_ if is_short_
  std::list<Client*>::iterator position_;
  bool ready_ = false;
  std::condition_variable returned_;  // running_ is 0
};

// The way from one queue thread into the pool. Belongs to that thread.
class WorkerPool::Feeder {
 public:
  explicit Feeder(WorkerPool& pool) : pool_(pool) {}
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

  // `item` runs some time after the next flush(). Its `run` must be set.
  void add(Client& client, Item& item) {
    item.client = &client;
    items_.push(item);
  }

  bool empty() const { return items_.empty(); }

  // Publishes what was added. It must be called before the thread sleeps; `sleeps`: that is next.
  // Costs nothing if there is nothing; else wakes a thread if one is wanted, or starts it if there
  // is none.
  void flush(bool sleeps = false) {
    if (!items_.empty()) publish(sleeps);
  }

 private:
  void publish(bool sleeps);

  WorkerPool& pool_;
  ItemList items_;
};

inline void WorkerPool::ItemList::push(Item& item) {
  item.next = nullptr;
  if (first_ == nullptr)
    first_ = &item;
  else
    last_->next = &item;
  last_ = &item;
}

inline WorkerPool::Item* WorkerPool::ItemList::pop() {
  Item* item = first_;
  if (item != nullptr) first_ = item->next;
  return item;
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_WORKER_POOL_H
