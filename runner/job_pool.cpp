// SPDX-License-Identifier: MIT
#include "job_pool.h"

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "block_signals.h"

namespace ublk_runner {

namespace {

// A job on its way to a thread of GLib's. GLib hands it over under a lock; the flag says the same
// to ThreadSanitizer, which can't see into GLib.
struct HandedOver {
  explicit HandedOver(std::function<void()> job) : run(std::move(job)) {
    ready.store(true, std::memory_order_release);
  }
  std::function<void()> run;
  std::atomic<bool> ready{false};
};

}  // namespace

// GLib starts the pool's threads from a helper thread, which it makes here: they inherit its mask.
JobPool::JobPool(const MainContext& context) : context_(context) {
  const BlockSignals block;
  pool_ = g_thread_pool_new(
      [](gpointer data, gpointer) {
        const std::unique_ptr<HandedOver> job(static_cast<HandedOver*>(data));
        if (job->ready.load(std::memory_order_acquire)) job->run();
      },
      nullptr, kMaxThreads, FALSE, nullptr);
}

JobPool::~JobPool() { g_thread_pool_free(pool_, FALSE, FALSE); }

// If no thread can be made the job stays queued for one that is there.
void JobPool::push(std::function<void()> job) {
  g_thread_pool_push(pool_, new HandedOver(std::move(job)), nullptr);
}

}  // namespace ublk_runner
