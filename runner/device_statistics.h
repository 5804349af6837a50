// SPDX-License-Identifier: MIT
//
// What is known of a device's I/O at one moment, as plain values: what the runner gathers, D-Bus
// carries and ublkctl shows.
#ifndef UBLK_RUNNER_DEVICE_STATISTICS_H
#define UBLK_RUNNER_DEVICE_STATISTICS_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "latency_histogram.h"

namespace ublk_runner {

// The operations that are counted, by their place in OperationStatistics.
struct OperationName {
  uint8_t op;  // enum ublk_op
  const char* name;
};
inline constexpr std::array<OperationName, 5> kOperations = {
    {{0, "read"}, {1, "write"}, {2, "flush"}, {3, "discard"}, {5, "write_zeroes"}}};
inline constexpr size_t kNoOperation = kOperations.size();
// The place of an enum ublk_op; kNoOperation: it is not counted.
constexpr size_t operation_index(uint8_t op) {
  return op <= 3 ? op : op == 5 ? size_t{4} : kNoOperation;
}

// Of a request's time, all of it and its parts.
//
//   total    from its arrival until the kernel gets its result
//   queue    until the handler gets it: held, or waiting for a buffer, its data or a worker
//   handler  until the handler's answer, with what a short one was asked for again
//   commit   the rest: the copy of a read's data in user-copy mode, the way from a worker back to
//            the I/O thread
enum Stage : uint8_t { kTotal, kQueue, kHandler, kCommit };
inline constexpr std::array<const char*, 4> kStageNames = {"total", "queue", "handler", "commit"};
using StageTimes = std::array<uint64_t, kStageNames.size()>;  // nanoseconds

struct OperationStatistics {
  uint64_t requests = 0;  // that have ended, also with an error
  uint64_t errors = 0;
  uint64_t bytes = 0;  // of those without
  uint64_t in_flight = 0;
  std::array<LatencyHistogram, kStageNames.size()> stages;

  void add(const OperationStatistics& other);
};

struct SlowRequest {
  uint64_t ended = 0;  // nanoseconds of CLOCK_REALTIME
  uint64_t sector = 0;
  uint32_t length = 0;  // bytes
  int32_t result = 0;   // as the kernel got it
  uint32_t queue = 0;   // its number, and the request's tag there
  uint32_t tag = 0;
  uint8_t operation = 0;  // in kOperations
  StageTimes stages{};
};

struct DeviceStatistics {
  static constexpr size_t kSlowest = 10;

  bool enabled =
      false;  // without, all up to slowest is what was counted before it was switched off
  std::array<OperationStatistics, kOperations.size()> operations;
  uint64_t oldest = 0;               // nanoseconds since the arrival of the oldest in flight
  std::vector<SlowRequest> slowest;  // the slowest first, kSlowest at most

  // Requests that have exceeded io_timeout, those of them that were failed for it, and those of
  // them that the handler has answered since.
  uint64_t timed_out = 0;
  uint64_t timeout_failures = 0;
  uint64_t late_answers = 0;
  uint32_t silent_queues = 0;  // whose thread does not answer: some of the above is missing

  void add(const DeviceStatistics& other);  // of another queue
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_DEVICE_STATISTICS_H
