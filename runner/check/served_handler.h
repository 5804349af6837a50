// SPDX-License-Identifier: MIT
//
// A handler that the whole runner serves, on the in-process driver: a disk without a kernel's
// driver and without root.
//
//   fake::Driver driver;
//   const HandlerFile file("./handler_foo.so");
//   ServedHandler served(driver, file.dir(), device_config(file, {{"size", "1M"}}));
//   served.disk()->write(0, 8, data);
#ifndef UBLK_CHECK_SERVED_HANDLER_H
#define UBLK_CHECK_SERVED_HANDLER_H

#include <config.h>
#include <runner.h>
#include <ublk/abi.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fake/driver.h"
#include "temporary_folder.h"

namespace ublk_check {

// "DIR/handler_NAME.so". Throws std::invalid_argument for another name.
class HandlerFile {
 public:
  explicit HandlerFile(const std::string& path);
  const std::string& dir() const { return dir_; }  // absolute
  const std::string& name() const { return name_; }

 private:
  std::string dir_;
  std::string name_;
};

using Settings = std::vector<std::pair<std::string, std::string>>;

// "key=value". Throws std::invalid_argument.
std::pair<std::string, std::string> parse_setting(const std::string& text);

// The device "check" of that handler with what its section of the configuration would say. Throws
// ublk_runner::ConfigError, std::invalid_argument for a key that comes twice.
ublk_runner::DeviceConfig device_config(const HandlerFile& file, const Settings& settings);

class ServedHandler {
 public:
  // Serves it by `io_threads` queue threads. Throws std::runtime_error, "what failed: cause": what
  // the runner would log.
  ServedHandler(fake::Driver& driver, const std::string& handler_dir,
                const ublk_runner::DeviceConfig& device, unsigned io_threads = 2);
  // Stops the device and closes the handler. All I/O must have ended, or it will fail; hold no disk
  // any more.
  ~ServedHandler();
  ServedHandler(const ServedHandler&) = delete;
  ServedHandler& operator=(const ServedHandler&) = delete;

  const std::shared_ptr<fake::Disk>& disk() const { return disk_; }
  const ublk::abi::Params& params() const { return params_; }
  // Stops with I/O in flight. Once; afterwards there is only the destructor.
  void stop();

 private:
  struct MainLoop;

  TemporaryFolder folder_;  // of the runner's links; ends last
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ublk_runner::Runner> runner_;
  std::shared_ptr<fake::Disk> disk_;
  ublk::abi::Params params_{};
};

}  // namespace ublk_check

#endif  // UBLK_CHECK_SERVED_HANDLER_H
