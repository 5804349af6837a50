// SPDX-License-Identifier: MIT
#include "queue_statistics.h"

#include <algorithm>
#include <ctime>

#include "turn_clock.h"

namespace ublk_runner {

namespace {

// What is to be added to CLOCK_MONOTONIC.
uint64_t real_time_offset() {
  timespec real;
  clock_gettime(CLOCK_REALTIME, &real);
  return static_cast<uint64_t>(real.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(real.tv_nsec) -
         monotonic_nanoseconds();
}

// Clocks of two CPUs, and a thread that has read one a little earlier than another.
constexpr uint64_t difference(uint64_t later, uint64_t earlier) {
  return later > earlier ? later - earlier : 0;
}

}  // namespace

QueueStatistics::QueueStatistics(uint16_t queue, uint16_t depth)
    : queue_(queue),
      depth_(depth),
      memory_(sizeof(Record) * depth + sizeof(Operation) * kOperations.size()),
      operations_(reinterpret_cast<Operation*>(memory_.get() + sizeof(Record) * depth)),
      records_(reinterpret_cast<Record*>(memory_.get())) {}

void QueueStatistics::forget_requests() {
  for (uint16_t tag = 0; tag < depth_; ++tag)
    records_[tag].state.store(State::kNone, std::memory_order_relaxed);
  for (size_t i = 0; i < kOperations.size(); ++i)
    if (operations_[i].in_flight.get() != 0) operations_[i].in_flight.set(0);
}

void QueueStatistics::arrived(const ublk::Request& request, uint64_t now) {
  const size_t operation = operation_index(static_cast<uint8_t>(request.op()));
  Record& record = records_[request.tag()];
  const State state = record.state.load(std::memory_order_acquire);
  if (state == State::kInFlight || operation == kNoOperation) return;
  if (state == State::kEnded) count(record);
  record.arrived = now;
  record.started = 0;
  record.answered = 0;
  record.sector = request.sector();
  record.length = request.op() == ublk::Operation::kFlush ? 0 : request.length();
  record.operation = static_cast<uint8_t>(operation);
  record.state.store(State::kInFlight, std::memory_order_relaxed);
  operations_[operation].in_flight.add(1);
}

void QueueStatistics::committing(uint16_t tag, int result, uint64_t now, bool own_thread) {
  Record& record = records_[tag];
  if (record.state.load(std::memory_order_relaxed) != State::kInFlight) return;
  record.ended = now;
  record.result = result;
  if (own_thread)
    count(record);
  else
    record.state.store(State::kEnded, std::memory_order_release);
}

void QueueStatistics::count(Record& record) {
  Operation& operation = operations_[record.operation];
  // One that the handler never had, or that was ended before its answer.
  const uint64_t started = record.started != 0 ? record.started : record.ended;
  const uint64_t answered = record.answered != 0 ? record.answered : record.ended;
  const StageTimes stages = {difference(record.ended, record.arrived),
                             difference(started, record.arrived), difference(answered, started),
                             difference(record.ended, answered)};
  for (size_t i = 0; i < stages.size(); ++i) operation.stages[i].add(stages[i]);
  operation.requests.add(1);
  if (record.result < 0)
    operation.errors.add(1);
  else
    operation.bytes.add(record.length);
  operation.in_flight.subtract(1);
  record.state.store(State::kNone, std::memory_order_relaxed);
  if (stages[kTotal] > fastest_of_slowest_ || nr_slowest_ < slowest_.size()) [[unlikely]]
    keep_if_slow(record, stages);
}

void QueueStatistics::keep_if_slow(const Record& record, const StageTimes& stages) {
  const auto faster = [](const SlowRequest& a, const SlowRequest& b) {
    return a.stages[kTotal] < b.stages[kTotal];
  };
  SlowRequest& place = nr_slowest_ < slowest_.size()
                           ? slowest_[nr_slowest_++]
                           : *std::min_element(slowest_.begin(), slowest_.end(), faster);
  place = {.ended = record.ended,
           .sector = record.sector,
           .length = record.length,
           .result = record.result,
           .queue = queue_,
           .tag = static_cast<uint32_t>(&record - records_),
           .operation = record.operation,
           .stages = stages};
  if (nr_slowest_ == slowest_.size())
    fastest_of_slowest_ =
        std::min_element(slowest_.begin(), slowest_.end(), faster)->stages[kTotal];
}

DeviceStatistics QueueStatistics::counters() const {
  DeviceStatistics statistics;
  for (size_t i = 0; i < kOperations.size(); ++i) {
    const Operation& from = operations_[i];
    // Not even a page of zeroes is mapped for what there is not.
    if (from.requests.get() == 0 && from.in_flight.get() == 0) continue;
    OperationStatistics& to = statistics.operations[i];
    to.requests = from.requests.get();
    to.errors = from.errors.get();
    to.bytes = from.bytes.get();
    to.in_flight = from.in_flight.get();
    for (size_t stage = 0; stage < to.stages.size(); ++stage)
      from.stages[stage].add_to(to.stages[stage]);
  }
  statistics.timed_out = timeouts_.exceeded.get();
  statistics.timeout_failures = timeouts_.failures.get();
  statistics.late_answers = timeouts_.late_answers.get();
  return statistics;
}

DeviceStatistics QueueStatistics::collect() {
  const uint64_t now = monotonic_nanoseconds();
  uint64_t oldest = 0;
  for (uint16_t tag = 0; tag < depth_; ++tag) {
    Record& record = records_[tag];
    const State state = record.state.load(std::memory_order_acquire);
    if (state == State::kEnded) count(record);
    if (state == State::kInFlight) oldest = std::max(oldest, difference(now, record.arrived));
  }
  DeviceStatistics statistics = counters();
  statistics.oldest = oldest;
  statistics.slowest.assign(slowest_.begin(), slowest_.begin() + nr_slowest_);
  const uint64_t offset = real_time_offset();
  for (SlowRequest& request : statistics.slowest) request.ended += offset;
  statistics.add({});  // puts them in order
  return statistics;
}

}  // namespace ublk_runner
