// SPDX-License-Identifier: MIT
//
// What all devices of a process share: worker threads, and memory for data.
#ifndef UBLK_RUNNER_SHARED_POOLS_H
#define UBLK_RUNNER_SHARED_POOLS_H

#include <ublk/buffer_pool.h>

#include <cstddef>
#include <memory>

#include "main_context.h"
#include "worker_pool.h"

namespace ublk_runner {

// Kept by everything that uses it, so that a handler which hangs until the process ends never finds
// it gone. Made and let go of by the control thread; the pools say who may call them.
class SharedPools final : public ublk::BufferPool::Waker,
                          public std::enable_shared_from_this<SharedPools> {
 public:
  // `buffer_memory`: bytes. Throws ublk::Error.
  static std::shared_ptr<SharedPools> make(const MainContext& context, size_t buffer_memory);

  WorkerPool& workers() { return workers_; }
  ublk::BufferPool& buffers() { return buffers_; }

  // Memory has become resident: looks every few seconds what of it is idle.
  void call_soon() noexcept override;

 private:
  SharedPools(const MainContext& context, size_t buffer_memory)
      : context_(context), buffers_(buffer_memory, this) {}
  void trim_later();

  const MainContext context_;
  WorkerPool workers_;
  ublk::BufferPool buffers_;
  Source trim_timer_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_SHARED_POOLS_H
