// SPDX-License-Identifier: MIT
//
// The statistics of devices at one moment, and what has happened between two.
#ifndef UBLK_CTL_STATISTICS_SAMPLE_H
#define UBLK_CTL_STATISTICS_SAMPLE_H

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "ctl/runner_client.h"
#include "device_statistics.h"

namespace ublk_ctl {

struct Sample {
  std::chrono::steady_clock::time_point at;
  std::map<std::string, ublk_runner::DeviceStatistics> devices;  // by name
};

// Of all devices, or of those that are named. Throws CommandError: there is no such device. One
// that goes meanwhile is left out.
Sample take_sample(RunnerClient& client, const std::vector<std::string>& names);

// Why nothing of it is counted, if so; else empty.
std::string why_nothing_counts(const Sample& sample);

// What an operation did in so many seconds.
struct Rate {
  double requests = 0;  // a second
  double bytes = 0;
  double errors = 0;
  uint64_t in_flight = 0;  // at the end
  std::array<ublk_runner::LatencyHistogram, ublk_runner::kStageNames.size()> stages;

  void add(const Rate& other);
};

// From `before` to `after`, in `seconds`. A counter that has gone back was begun anew: then it
// counts as a whole.
Rate rate_of(const ublk_runner::OperationStatistics& before,
             const ublk_runner::OperationStatistics& after, double seconds);

double seconds_between(const Sample& before, const Sample& after);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_STATISTICS_SAMPLE_H
