// SPDX-License-Identifier: MIT
#include "job_pool.h"

#include "block_signals.h"

namespace ublk_runner {

// GLib starts the pool's threads from a helper thread, which it makes here: they inherit its mask.
JobPool::JobPool(const MainContext& context) : context_(context) {
  const BlockSignals block;
  pool_ = g_thread_pool_new(
      [](gpointer data, gpointer) {
        const std::unique_ptr<HandedOver> job(static_cast<HandedOver*>(data));
        job->run();
      },
      nullptr, kMaxThreads, FALSE, nullptr);
}

JobPool::~JobPool() { g_thread_pool_free(pool_, FALSE, FALSE); }

// If no thread can be made the job stays queued for one that is there.
void JobPool::push(std::function<void()> job) {
  g_thread_pool_push(pool_, new HandedOver(std::move(job)), nullptr);
}

}  // namespace ublk_runner
