// SPDX-License-Identifier: MIT
#include "main_context.h"

#include <glib-unix.h>

#include <algorithm>
#include <utility>

namespace ublk_runner {

namespace {

// The kinds of sources call back differently; each runs the task and says whether to go on.
gboolean run_once(gpointer task) {
  static_cast<HandedOver*>(task)->run();
  return G_SOURCE_REMOVE;
}
gboolean run_for_fd(gint, GIOCondition, gpointer task) {
  static_cast<HandedOver*>(task)->run();
  return G_SOURCE_CONTINUE;
}

// The caller gets the reference.
GSource* attach(GMainContext* context, GSource* source, GSourceFunc callback,
                std::function<void()> task) {
  g_source_set_priority(source, G_PRIORITY_DEFAULT);
  g_source_set_callback(source, callback, new HandedOver(std::move(task)),
                        [](gpointer data) { delete static_cast<HandedOver*>(data); });
  g_source_attach(source, context);
  return source;
}

}  // namespace

Source::~Source() {
  if (source_ == nullptr) return;
  g_source_destroy(source_);
  g_source_unref(source_);
}

MainContext::MainContext(GMainContext* context)
    : context_(g_main_context_ref(context != nullptr ? context : g_main_context_default()),
               g_main_context_unref) {}

// Not g_main_context_invoke(): that runs the task on the calling thread while nobody iterates the
// context.
void MainContext::post(std::function<void()> task) const {
  g_source_unref(attach(get(), g_idle_source_new(), run_once, std::move(task)));
}

Source MainContext::after(Milliseconds delay, std::function<void()> task) const {
  const auto milliseconds = static_cast<guint>(std::max<int64_t>(delay.count(), 0));
  return Source(attach(get(), g_timeout_source_new(milliseconds), run_once, std::move(task)));
}

Source MainContext::when_readable(int fd, std::function<void()> task) const {
  return Source(
      attach(get(), g_unix_fd_source_new(fd, G_IO_IN), G_SOURCE_FUNC(run_for_fd), std::move(task)));
}

}  // namespace ublk_runner
