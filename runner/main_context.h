// SPDX-License-Identifier: MIT
//
// The control thread's event loop, a GLib main context: calls into it from other threads, and
// timers on it. The thread that runs it is the control thread wherever this folder says so.
#ifndef UBLK_RUNNER_MAIN_CONTEXT_H
#define UBLK_RUNNER_MAIN_CONTEXT_H

#include <glib.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace ublk_runner {

using Milliseconds = std::chrono::milliseconds;

// "30 s", for messages.
inline std::string seconds_text(Milliseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

// A function that GLib hands over to another thread. GLib does that under a lock; the flag says the
// same to ThreadSanitizer, which can't see into GLib.
class HandedOver {
 public:
  explicit HandedOver(std::function<void()> task) : task_(std::move(task)) {
    ready_.store(true, std::memory_order_release);
  }
  void run() {
    if (ready_.load(std::memory_order_acquire)) task_();
  }

 private:
  std::function<void()> task_;
  std::atomic<bool> ready_{false};
};

// An event source of a context; leaves it when it is destroyed. Control thread.
class Source {
 public:
  Source() = default;
  Source(Source&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}
  Source& operator=(Source&& other) noexcept {
    std::swap(source_, other.source_);
    return *this;
  }
  ~Source();

 private:
  friend class MainContext;
  explicit Source(GSource* source) : source_(source) {}

  GSource* source_ = nullptr;
};

// A reference, cheap to copy.
class MainContext {
 public:
  // nullptr: GLib's default context.
  explicit MainContext(GMainContext* context = nullptr);

  GMainContext* get() const { return context_.get(); }

  // Runs `task` on the control thread, in its next turn, never inside this call. Any thread.
  void post(std::function<void()> task) const;

  // Runs `task` once, after `delay`, unless the Source is destroyed before. Control thread.
  [[nodiscard]] Source after(Milliseconds delay, std::function<void()> task) const;

  // Runs `task` each time that `fd` is readable, until the Source is destroyed. Control thread.
  [[nodiscard]] Source when_readable(int fd, std::function<void()> task) const;

 private:
  std::shared_ptr<GMainContext> context_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MAIN_CONTEXT_H
