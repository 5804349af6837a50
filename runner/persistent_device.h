// SPDX-License-Identifier: MIT
//
// A device that was added at run time becomes part of the configuration.
#ifndef UBLK_RUNNER_PERSISTENT_DEVICE_H
#define UBLK_RUNNER_PERSISTENT_DEVICE_H

#include <ublk/unique_fd.h>

#include <string>

#include "config.h"

namespace ublk_runner {

// The file FILE.d/NAME.conf with the device's section. What can fail comes first: the file is
// written under another name, which no runner reads, and commit() but renames it. Reads and writes
// files, so it may block.
class PersistentDevice {
 public:
  // Throws RunnerError: the configuration has such a device, or there is such a file; ConfigError:
  // the configuration is wrong, so it can't be told; std::system_error; std::runtime_error: a name
  // or settings that a file can't have. One of a name at a time.
  PersistentDevice(const std::string& config_file, const DeviceConfig& device);
  ~PersistentDevice();  // without commit() nothing is left
  PersistentDevice(const PersistentDevice&) = delete;
  PersistentDevice& operator=(const PersistentDevice&) = delete;

  void commit();  // throws RunnerError, std::system_error

 private:
  const std::string path_;
  const std::string temporary_;
  bool committed_ = false;
};

// What PersistentDevice has made: FILE.d/NAME.conf. Throws std::runtime_error: there is no such
// file, or it holds something else, too. Reads the file, so it may block.
std::string persistent_device_file(const std::string& config_file, const std::string& name);

// Removes that file. Throws std::system_error.
void remove_persistent_device_file(const std::string& path);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_PERSISTENT_DEVICE_H
