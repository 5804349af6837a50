// SPDX-License-Identifier: MIT
//
// The control thread's event loop, a GLib main context: calls into it from other threads, and
// timers on it. The thread that runs it is the control thread wherever this folder says so.
#ifndef UBLK_RUNNER_MAIN_CONTEXT_H
#define UBLK_RUNNER_MAIN_CONTEXT_H

#include <glib.h>

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

// A reference, cheap to copy. Copies share the tasks that were posted; those that have not run when
// the last copy goes never will.
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
  class PostedTasks;
  std::shared_ptr<GMainContext> context_;
  std::shared_ptr<PostedTasks> posted_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_MAIN_CONTEXT_H
