// SPDX-License-Identifier: MIT
#include "main_context.h"

#include <algorithm>
#include <utility>

namespace ublk_runner {

namespace {

GSource* attach(GMainContext* context, GSource* source, std::function<bool()> callback) {
  g_source_set_priority(source, G_PRIORITY_DEFAULT);
  g_source_set_callback(
      source,
      [](gpointer data) -> gboolean { return (*static_cast<std::function<bool()>*>(data))(); },
      new std::function<bool()>(std::move(callback)),
      [](gpointer data) { delete static_cast<std::function<bool()>*>(data); });
  g_source_attach(source, context);
  return source;
}

}  // namespace

Source::Source(GMainContext* context, GSource* source, std::function<bool()> callback)
    : source_(attach(context, source, std::move(callback))) {}

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
  g_source_unref(attach(get(), g_idle_source_new(), [task = std::move(task)] {
    task();
    return false;
  }));
}

Source MainContext::after(Milliseconds delay, std::function<void()> task) const {
  const auto milliseconds = static_cast<guint>(std::max<int64_t>(delay.count(), 0));
  return {get(), g_timeout_source_new(milliseconds), [task = std::move(task)] {
            task();
            return false;
          }};
}

}  // namespace ublk_runner
