// SPDX-License-Identifier: MIT
//
// The runner as its D-Bus interface shows it, see org.ublk.Runner1.xml.
#ifndef UBLK_CTL_RUNNER_CLIENT_H
#define UBLK_CTL_RUNNER_CLIENT_H

#include <string>
#include <vector>

#include "ctl/command.h"
#include "ctl/output.h"
#include "device_statistics.h"
#include "glib_ptr.h"

namespace ublk_ctl {

// A D-Bus value. Dictionaries become objects with their own keys.
Json to_json(GVariant* value);
// "QueueDepth": "queue_depth", the spelling of options and of JSON.
std::string snake_case(const std::string& name);

// All functions throw CommandError, with the exit status that tells what kind of failure it is.
class RunnerClient {
 public:
  // Connects as the options --socket and --system say.
  explicit RunnerClient(const Call& call);

  Json runner();                         // its properties
  Json devices();                        // an array of each one's, by name
  Json device(const std::string& name);  // those of one

  std::string add(const std::string& name, const std::map<std::string, std::string>& settings,
                  bool persist);  // returns the path
  struct Applied {
    std::vector<std::string> done;
    std::vector<std::string> failed;
  };
  Applied reload(bool dry_run);
  void remove(const std::string& name, bool force, bool persist);
  void resize(const std::string& name, uint64_t size);
  void restart(const std::string& name);
  ublk_runner::DeviceStatistics statistics(const std::string& name);  // of a device that there is

 private:
  ublk_runner::Variant call(const std::string& path, const char* interface, const char* method,
                            GVariant* arguments, const char* reply_type);
  void call_device(const std::string& name, const char* method, GVariant* arguments);

  std::string where_;  // of texts: the socket, or the system bus
  const char* bus_name_ = nullptr;
  ublk_runner::GlibRef<GDBusConnection> connection_;
};

}  // namespace ublk_ctl

#endif  // UBLK_CTL_RUNNER_CLIENT_H
