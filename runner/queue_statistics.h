// SPDX-License-Identifier: MIT
//
// The statistics of one queue, as it writes them.
#ifndef UBLK_RUNNER_QUEUE_STATISTICS_H
#define UBLK_RUNNER_QUEUE_STATISTICS_H

#include <ublk/request.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "anonymous_memory.h"
#include "device_statistics.h"

namespace ublk_runner {

// Each request leaves its times in the record of its tag, which whoever has the request writes. The
// queue's thread alone adds records to the counters: at once, or, of a request that a worker has
// given to the kernel, when the tag's next one comes or somebody asks. So no counter has two
// writers.
//
// It outlives the DeviceQueue that writes it: a restart of the device goes on with it. Nothing is
// allocated after the constructor, and a page that is not needed is not touched.
class QueueStatistics {
 public:
  // Throws std::bad_alloc.
  QueueStatistics(uint16_t queue, uint16_t depth);
  QueueStatistics(const QueueStatistics&) = delete;
  QueueStatistics& operator=(const QueueStatistics&) = delete;

  // The queue's thread, when it is switched on: those that were there when it was switched off.
  void forget_requests();

  // The stations of a request; times are CLOCK_MONOTONIC in nanoseconds. A request that was there
  // before it was switched on is left out.

  // On the queue's thread. One that has arrived before, and comes again with its data, is the same.
  void arrived(const ublk::Request& request, uint64_t now);
  // Whoever has the request. The first time counts.
  void started(uint16_t tag, uint64_t now) {
    Record& record = records_[tag];
    if (record.started == 0) record.started = now;
  }
  // Whoever has the request. The last time counts.
  void answered(uint16_t tag, uint64_t now) { records_[tag].answered = now; }
  uint64_t answered_at(uint16_t tag) const { return records_[tag].answered; }
  // The request's last owner. `own_thread`: it is the queue's.
  void committing(uint16_t tag, int result, uint64_t now, bool own_thread);

  // Of io_timeout; also while all else is switched off. Written by the queue's thread.
  struct Timeouts {
    Counter exceeded;
    Counter failures;
    Counter late_answers;
  };
  Timeouts& timeouts() { return timeouts_; }

  // The queue's thread: all that has ended until now.
  DeviceStatistics collect();
  // Any thread: without the slow ones, and what has ended lately may be missing.
  DeviceStatistics counters() const;

 private:
  enum class State : uint8_t { kNone, kInFlight, kEnded };

  // All zero is one without a request.
  struct alignas(64) Record {
    uint64_t arrived;
    uint64_t started;   // 0: it has not
    uint64_t answered;  // 0: it is not
    uint64_t ended;
    uint64_t sector;
    uint32_t length;
    int32_t result;
    uint8_t operation;
    // Release with kEnded: the queue's thread then reads all of the record.
    std::atomic<State> state;
  };

  struct Operation {
    Counter requests;
    Counter errors;
    Counter bytes;
    Counter in_flight;
    std::array<LatencyCounters, kStageNames.size()> stages;
  };

  void count(Record& record);
  void keep_if_slow(const Record& record, const StageTimes& stages);

  const uint16_t queue_;
  const uint16_t depth_;
  const AnonymousMemory memory_;  // the operations, then the records
  Operation* const operations_;
  Record* const records_;
  Timeouts timeouts_;
  // For the queue's thread.
  std::array<SlowRequest, DeviceStatistics::kSlowest>
      slowest_{};  // in no order; ended is monotonic
  uint64_t fastest_of_slowest_ = 0;
  size_t nr_slowest_ = 0;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_QUEUE_STATISTICS_H
