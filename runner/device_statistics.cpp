// SPDX-License-Identifier: MIT
#include "device_statistics.h"

#include <algorithm>

namespace ublk_runner {

void OperationStatistics::add(const OperationStatistics& other) {
  requests += other.requests;
  errors += other.errors;
  bytes += other.bytes;
  in_flight += other.in_flight;
  for (size_t i = 0; i < stages.size(); ++i) stages[i].add(other.stages[i]);
}

void DeviceStatistics::add(const DeviceStatistics& other) {
  enabled = enabled || other.enabled;
  for (size_t i = 0; i < operations.size(); ++i) operations[i].add(other.operations[i]);
  oldest = std::max(oldest, other.oldest);
  slowest.insert(slowest.end(), other.slowest.begin(), other.slowest.end());
  std::stable_sort(slowest.begin(), slowest.end(), [](const SlowRequest& a, const SlowRequest& b) {
    return a.stages[kTotal] > b.stages[kTotal];
  });
  if (slowest.size() > kSlowest) slowest.resize(kSlowest);
  timed_out += other.timed_out;
  timeout_failures += other.timeout_failures;
  late_answers += other.late_answers;
  silent_queues += other.silent_queues;
}

}  // namespace ublk_runner
