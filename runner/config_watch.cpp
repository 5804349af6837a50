// SPDX-License-Identifier: MIT
#include "config_watch.h"

#include <filesystem>
#include <utility>

#include "block_signals.h"
#include "log.h"

namespace ublk_runner {

namespace {

namespace fs = std::filesystem;

struct Unref {
  void operator()(gpointer object) const { g_object_unref(object); }
};

}  // namespace

ConfigWatch::ConfigWatch(const MainContext& context, const std::string& file,
                         std::function<void()> changed)
    : context_(context),
      file_(fs::absolute(file).lexically_normal().string()),
      folder_(file_ + ".d"),
      changed_(std::move(changed)),
      parent_(watch(fs::path(file_).parent_path().string())) {
  watch_more_files();
}

void ConfigWatch::StopMonitor::operator()(GFileMonitor* monitor) const {
  g_signal_handlers_disconnect_by_data(monitor, watch);
  g_file_monitor_cancel(monitor);
  g_object_unref(monitor);
}

// The folder and not the files: a file that is replaced is another one. The local VFS and not the
// default one, which may be a desktop's.
ConfigWatch::Monitor ConfigWatch::watch(const std::string& folder) {
  const BlockSignals block;  // GLib may make a thread
  const std::unique_ptr<GFile, Unref> file(
      g_vfs_get_file_for_path(g_vfs_get_local(), folder.c_str()));
  GError* error = nullptr;
  g_main_context_push_thread_default(context_.get());
  Monitor monitor(g_file_monitor_directory(file.get(), G_FILE_MONITOR_WATCH_MOVES, nullptr, &error),
                  StopMonitor{this});
  g_main_context_pop_thread_default(context_.get());
  if (monitor == nullptr) {
    log(LogLevel::kWarning, {}, "%s: changes are not noticed: %s", folder.c_str(), error->message);
    g_error_free(error);
    return monitor;
  }
  g_signal_connect(monitor.get(), "changed", G_CALLBACK(on_event), this);
  return monitor;
}

void ConfigWatch::watch_more_files() {
  std::error_code error;
  more_files_ = fs::is_directory(folder_, error) ? watch(folder_) : Monitor(nullptr, {this});
}

void ConfigWatch::on_event(GFileMonitor*, GFile* file, GFile* other, GFileMonitorEvent event,
                           gpointer self) {
  switch (event) {
    case G_FILE_MONITOR_EVENT_CHANGED:  // more may follow; the hint tells of the end
    case G_FILE_MONITOR_EVENT_ATTRIBUTE_CHANGED:
      break;
    default:
      static_cast<ConfigWatch*>(self)->note(file);
      if (other != nullptr) static_cast<ConfigWatch*>(self)->note(other);
  }
}

void ConfigWatch::note(GFile* file) {
  const fs::path path = g_file_peek_path(file);
  if (path == folder_)
    watch_more_files();
  else if (path != file_ && (path.parent_path() != folder_ || path.extension() != ".conf"))
    return;
  quiet_ = context_.after(kQuietTime, [this] { changed_(); });
}

}  // namespace ublk_runner
