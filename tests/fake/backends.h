// SPDX-License-Identifier: MIT
// Backends of tests.
#ifndef UBLK_TESTS_FAKE_BACKENDS_H
#define UBLK_TESTS_FAKE_BACKENDS_H

#include <ublk/queue.h>
#include <ublk/request.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fake {

// A RAM disk in any buffer mode. Requests that do not overlap may come on several threads at once.
class MemoryBackend : public ublk::Backend {
 public:
  explicit MemoryBackend(size_t bytes) : data_(bytes) {}

  void submit(ublk::Request request) override;
  void need_buffer(ublk::Request request) override;
  void buffer_done(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override;

 private:
  int execute(ublk::Request& request);

  std::vector<std::byte> data_;
};

// Passes every request to another backend on one of its threads, which completes what is there in
// batches of some.
class WorkersBackend : public ublk::Backend {
 public:
  WorkersBackend(ublk::Backend& backend, unsigned threads);
  ~WorkersBackend() override;  // all requests must have ended

  void submit(ublk::Request request) override;
  void need_buffer(ublk::Request request) override { backend_.need_buffer(std::move(request)); }
  void buffer_done(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override {
    backend_.buffer_done(queue, tag, buffer);
  }

 private:
  void work();

  ublk::Backend& backend_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ublk::Request> requests_;
  bool ending_ = false;
  std::vector<std::jthread> threads_;
};

// Does with each request what it is told to, on the ring's thread.
class FunctionBackend : public ublk::Backend {
 public:
  explicit FunctionBackend(std::function<void(ublk::Request)> function)
      : function_(std::move(function)) {}
  void submit(ublk::Request request) override { function_(std::move(request)); }

 private:
  const std::function<void(ublk::Request)> function_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_BACKENDS_H
