// SPDX-License-Identifier: MIT
//
// The file of [runner] statistics_file: what the textfile collector of Prometheus's node_exporter
// reads.
#ifndef UBLK_RUNNER_STATISTICS_FILE_H
#define UBLK_RUNNER_STATISTICS_FILE_H

#include <chrono>
#include <memory>
#include <string>

#include "async.h"
#include "main_context.h"
#include "rate_limit.h"
#include "runner.h"

namespace ublk_runner {

// Writes the statistics of all devices every `interval`, as a whole: whoever reads the file finds
// an old version or a new one. A job writes it, so a file system that hangs, on a device of ours
// perhaps, holds up nothing; until it has answered there is no other version. What goes wrong is
// logged. The last version stays when this ends.
//
// Control thread.
class StatisticsFile {
 public:
  StatisticsFile(Runner& runner, std::string path, std::chrono::seconds interval);

  const std::string& path() const { return path_; }
  std::chrono::seconds interval() const { return interval_; }

 private:
  Task<> run();

  Runner& runner_;
  const std::string path_;
  const std::chrono::seconds interval_;
  RateLimit complaints_;
  TaskSet tasks_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_STATISTICS_FILE_H
