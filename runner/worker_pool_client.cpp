// SPDX-License-Identifier: MIT
//
// The ways into a WorkerPool: of devices, and of queue threads.
#include <sched.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "worker_pool.h"

namespace ublk_runner {

void WorkerPool::Feeder::publish(bool sleeps) {
  const int cpu = sleeps ? sched_getcpu() : kAnyCpu;
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
    call = pool_.call_if_wanted(pool_.has_little_to_do() ? cpu : kAnyCpu);
  }
  pool_.deliver(call);
}

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

WorkerPool::ItemList WorkerPool::Client::drop_queued(const std::function<bool(Item&)>& takes) {
  ItemList taken;
  ItemList left;
  const std::lock_guard lock(pool_.mutex_);
  while (Item* item = queue_.pop()) {
    const bool takes_it = takes(*item);
    (takes_it ? taken : left).push(*item);
    if (!takes_it) continue;
    --queued_;
    --pool_.queued_;
  }
  queue_ = left;
  pool_.update(*this);
  return taken;
}

}  // namespace ublk_runner
