// SPDX-License-Identifier: MIT
//
// How long things took, in buckets whose width grows with the time: cheap to add to, and two can be
// added up.
#ifndef UBLK_RUNNER_LATENCY_HISTOGRAM_H
#define UBLK_RUNNER_LATENCY_HISTOGRAM_H

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace ublk_runner {

// The buckets, of nanoseconds: one up to 256 ns, then four for each power of two, so each is at
// most a quarter wider than where it begins, and one for all beyond 68 s.
struct LatencyBuckets {
  static constexpr unsigned kFirstBits = 8;
  static constexpr unsigned kLastBits = 36;
  static constexpr unsigned kPerOctave = 4;
  static constexpr size_t kCount = (kLastBits - kFirstBits) * kPerOctave + 2;

  static constexpr size_t of(uint64_t nanoseconds) {
    if (nanoseconds >> kFirstBits == 0) return 0;
    const auto bits = static_cast<unsigned>(std::bit_width(nanoseconds)) - 1;
    if (bits >= kLastBits) return kCount - 1;
    return 1 + (bits - kFirstBits) * kPerOctave + (nanoseconds >> (bits - 2) & (kPerOctave - 1));
  }
  // The first time that is not in the bucket any more; UINT64_MAX of the last one.
  static constexpr uint64_t end(size_t bucket) {
    if (bucket + 1 >= kCount) return UINT64_MAX;
    if (bucket == 0) return uint64_t{1} << kFirstBits;
    const size_t octave = (bucket - 1) / kPerOctave;
    return (kPerOctave + (bucket - 1) % kPerOctave + 1) << (octave + kFirstBits - 2);
  }
};

// A plain value.
struct LatencyHistogram {
  uint64_t sum = 0;  // nanoseconds
  uint64_t max = 0;
  std::array<uint64_t, LatencyBuckets::kCount> buckets{};

  uint64_t count() const;
  uint64_t mean() const;  // 0: nothing was added
  // The time that a `share` (0 .. 1) of them did not exceed, to the accuracy of the buckets.
  uint64_t quantile(double share) const;
  void add(const LatencyHistogram& other);
  // What was added to it since it was `earlier`; max is still that of all.
  LatencyHistogram since(const LatencyHistogram& earlier) const;
};

// Written by one thread at a time, without atomic read-modify-write, and read by any. What a reader
// sees of several counters need not be of one moment.
class Counter {
 public:
  void add(uint64_t n) { set(get() + n); }
  void subtract(uint64_t n) { set(get() - n); }
  void set(uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// A LatencyHistogram that is being written. All zero is an empty one.
class LatencyCounters {
 public:
  void add(uint64_t nanoseconds) {
    if (nanoseconds == 0) {  // as two of three stages often are
      buckets_[0].add(1);
      return;
    }
    buckets_[LatencyBuckets::of(nanoseconds)].add(1);
    sum_.add(nanoseconds);
    if (nanoseconds > max_.get()) [[unlikely]]
      max_.set(nanoseconds);
  }
  void add_to(LatencyHistogram& histogram) const;  // any thread

 private:
  Counter sum_;
  Counter max_;
  std::array<Counter, LatencyBuckets::kCount> buckets_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_LATENCY_HISTOGRAM_H
