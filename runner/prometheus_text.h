// SPDX-License-Identifier: MIT
//
// Statistics in the text format of Prometheus, version 0.0.4.
#ifndef UBLK_RUNNER_PROMETHEUS_TEXT_H
#define UBLK_RUNNER_PROMETHEUS_TEXT_H

#include <string>
#include <vector>

#include "device_statistics.h"

namespace ublk_runner {

struct NamedStatistics {
  std::string device;
  DeviceStatistics statistics;
};

// All metrics with HELP and TYPE, each with the samples of all devices. The names are part of the
// program's interface: see ublkctl(8).
std::string prometheus_text(const std::vector<NamedStatistics>& devices);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_PROMETHEUS_TEXT_H
