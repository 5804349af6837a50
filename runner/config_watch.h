// SPDX-License-Identifier: MIT
//
// Notices changes of the configuration's files.
#ifndef UBLK_RUNNER_CONFIG_WATCH_H
#define UBLK_RUNNER_CONFIG_WATCH_H

#include <gio/gio.h>

#include <functional>
#include <memory>
#include <string>

#include "main_context.h"

namespace ublk_runner {

// The file, and `file`.d/*.conf, whether they are written in place (a change counts when the writer
// closes the file), replaced by another one, come or go. What happens within kQuietTime counts
// once. Control thread.
class ConfigWatch {
 public:
  static constexpr Milliseconds kQuietTime{300};

  // What can't be watched is logged, and its changes are not noticed.
  ConfigWatch(const MainContext& context, const std::string& file, std::function<void()> changed);
  ConfigWatch(const ConfigWatch&) = delete;
  ConfigWatch& operator=(const ConfigWatch&) = delete;

 private:
  struct StopMonitor {
    ConfigWatch* watch;
    void operator()(GFileMonitor* monitor) const;
  };
  using Monitor = std::unique_ptr<GFileMonitor, StopMonitor>;

  static void on_event(GFileMonitor*, GFile* file, GFile* other, GFileMonitorEvent event,
                       gpointer self);
  Monitor watch(const std::string& folder);
  void watch_more_files();
  void note(GFile* file);

  const MainContext context_;
  const std::string file_;    // absolute
  const std::string folder_;  // FILE.d
  const std::function<void()> changed_;
  Monitor parent_;
  Monitor more_files_;  // none: there is no such folder
  Source quiet_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_CONFIG_WATCH_H
