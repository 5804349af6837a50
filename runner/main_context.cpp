// SPDX-License-Identifier: MIT
#include "main_context.h"

#include <glib-unix.h>
#include <ublk/completion_batch.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace ublk_runner {

namespace {

using Task = std::function<void()>;

// The kinds of sources call back differently; each runs the task and says whether to go on.
gboolean run_once(gpointer task) {
  (*static_cast<Task*>(task))();
  return G_SOURCE_REMOVE;
}
gboolean run_for_fd(gint, GIOCondition, gpointer task) {
  (*static_cast<Task*>(task))();
  return G_SOURCE_CONTINUE;
}

// The caller gets the reference.
GSource* attach(GMainContext* context, GSource* source, GSourceFunc callback, Task task) {
  g_source_set_priority(source, G_PRIORITY_DEFAULT);
  g_source_set_callback(source, callback, new Task(std::move(task)),
                        [](gpointer data) { delete static_cast<Task*>(data); });
  g_source_attach(source, context);
  return source;
}

}  // namespace

Source::~Source() {
  if (source_ == nullptr) return;
  g_source_destroy(source_);
  g_source_unref(source_);
}

// A list of our own and one source for all, instead of a source for each task: GLib's locks and
// memory are invisible to ThreadSanitizer.
class MainContext::PostedTasks : public std::enable_shared_from_this<PostedTasks> {
 public:
  static std::shared_ptr<PostedTasks> make(GMainContext* context) {
    auto posted = std::make_shared<PostedTasks>();
    posted->source_ =
        Source(attach(context, g_unix_fd_source_new(posted->wakeup_.fd(), G_IO_IN),
                      G_SOURCE_FUNC(run_for_fd), [posted = posted.get()] { posted->run(); }));
    return posted;
  }

  void push(Task task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
      if (tasks_.size() != 1) return;
    }
    wakeup_.write();
  }

 private:
  void run() {
    const std::shared_ptr<PostedTasks> self =
        shared_from_this();  // a task may let go of all others
    uint64_t count;
    static_cast<void>(!read(wakeup_.fd(), &count, sizeof(count)));
    std::vector<Task> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (Task& task : tasks) task();
  }

  ublk::internal::Wakeup wakeup_;
  std::mutex mutex_;  // a leaf
  std::vector<Task> tasks_;
  Source source_;
};

MainContext::MainContext(GMainContext* context)
    : context_(g_main_context_ref(context != nullptr ? context : g_main_context_default()),
               g_main_context_unref),
      posted_(PostedTasks::make(context_.get())) {}

void MainContext::post(Task task) const { posted_->push(std::move(task)); }

Source MainContext::after(Milliseconds delay, Task task) const {
  const auto milliseconds = static_cast<guint>(std::max<int64_t>(delay.count(), 0));
  return Source(attach(get(), g_timeout_source_new(milliseconds), run_once, std::move(task)));
}

Source MainContext::when_readable(int fd, Task task) const {
  return Source(
      attach(get(), g_unix_fd_source_new(fd, G_IO_IN), G_SOURCE_FUNC(run_for_fd), std::move(task)));
}

}  // namespace ublk_runner
