// SPDX-License-Identifier: MIT
// A thread that serves queues on a ring, and a device that is served by such threads.
#ifndef UBLK_TESTS_FAKE_RING_THREAD_H
#define UBLK_TESTS_FAKE_RING_THREAD_H

#include <liburing.h>
#include <ublk/control.h>
#include <ublk/device.h>
#include <ublk/ring.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace fake {

// Queues of any devices come and go while it runs.
class RingThread {
 public:
  using Other = std::function<void(const io_uring_cqe&)>;

  // `other` gets the completions that are not the library's. Throws ublk::Error.
  explicit RingThread(
      unsigned cq_entries = 8192, Other other = [](const io_uring_cqe&) {});
  // Waits until all queues have stopped. Threads that complete requests must have ended.
  ~RingThread();
  RingThread(const RingThread&) = delete;
  RingThread& operator=(const RingThread&) = delete;

  // As Ring::attach, from any thread; throws what it throws.
  void attach(std::shared_ptr<ublk::DeviceNode> node, uint16_t queue, ublk::Backend& backend);

  // Runs `function(ring)` on the thread and waits for its result.
  template <class F>
  auto call(F&& function) {
    using Result = std::invoke_result_t<F, ublk::Ring&>;
    const auto task = std::make_shared<std::packaged_task<Result()>>(
        [this, f = std::forward<F>(function)]() mutable { return f(*ring_); });
    ring_->post([task] { (*task)(); });
    return task->get_future().get();
  }

  // Any thread.
  uint64_t wakeups() const { return ring_->wakeups(); }
  void wake() {
    ring_->post([] {});
  }

 private:
  void serve(unsigned cq_entries, std::promise<void>& ready);

  const Other other_;
  io_uring uring_{};
  std::unique_ptr<ublk::Ring> ring_;
  bool ending_ = false;  // the thread's
  std::promise<void> end_posted_;
  std::jthread thread_;
};

// What a device of tests asks for, with discard and write-zeroes.
ublk::DeviceSpec device_spec(uint64_t bytes, uint16_t queues = 1, uint16_t depth = 32,
                             uint32_t attrs = 0, uint64_t flags = 0);

// Passes everything on to another backend and counts the queues that are served.
class CountedBackend : public ublk::Backend {
 public:
  explicit CountedBackend(ublk::Backend& backend) : backend_(backend) {}
  ~CountedBackend() override;  // waits until all queues have stopped

  void attached();  // once for each queue
  void submit(ublk::Request request) override { backend_.submit(std::move(request)); }
  void failed(ublk::Queue& queue, uint16_t tag, int error) override {
    backend_.failed(queue, tag, error);
  }
  void stopped(ublk::Queue& queue) override;
  void need_buffer(ublk::Request request) override { backend_.need_buffer(std::move(request)); }
  void buffer_done(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override {
    backend_.buffer_done(queue, tag, buffer);
  }
  std::byte* alloc_io_buffer(ublk::Queue& queue, uint16_t tag, size_t bytes) override {
    return backend_.alloc_io_buffer(queue, tag, bytes);
  }
  void free_io_buffer(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override {
    backend_.free_io_buffer(queue, tag, buffer);
  }

 private:
  ublk::Backend& backend_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  unsigned queues_ = 0;
};

// A started device; queue i is on threads[i % n]. The destructor stops and deletes it, and when it
// returns the backend is used no more.
class ServedDevice {
 public:
  ServedDevice(ublk::Control& control, const ublk::DeviceSpec& spec, ublk::Backend& backend,
               const std::vector<RingThread*>& threads);

  uint32_t id() const { return device_.id(); }
  ublk::Device& device() { return device_; }
  void stop() { device_.stop(); }

 private:
  CountedBackend backend_;  // ends after the device, whose DEL does not wait for stopped()
  ublk::Device device_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RING_THREAD_H
