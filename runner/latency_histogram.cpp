// SPDX-License-Identifier: MIT
#include "latency_histogram.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ublk_runner {

uint64_t LatencyHistogram::count() const {
  return std::accumulate(buckets.begin(), buckets.end(), uint64_t{0});
}

uint64_t LatencyHistogram::mean() const {
  const uint64_t all = count();
  return all == 0 ? 0 : sum / all;
}

// Within its bucket they are taken to be spread evenly.
uint64_t LatencyHistogram::quantile(double share) const {
  const uint64_t all = count();
  if (all == 0) return 0;
  const auto rank = std::clamp<uint64_t>(
      static_cast<uint64_t>(std::ceil(share * static_cast<double>(all))), 1, all);
  uint64_t before = 0;
  for (size_t i = 0; i < buckets.size(); ++i) {
    if (before + buckets[i] < rank) {
      before += buckets[i];
      continue;
    }
    const uint64_t begin = i == 0 ? 0 : LatencyBuckets::end(i - 1);
    if (i + 1 == buckets.size()) return std::max(max, begin);
    const double part = static_cast<double>(rank - before) / static_cast<double>(buckets[i]);
    const double width = static_cast<double>(LatencyBuckets::end(i) - begin);
    return std::min(begin + static_cast<uint64_t>(part * width), max);
  }
  return max;
}

void LatencyHistogram::add(const LatencyHistogram& other) {
  sum += other.sum;
  max = std::max(max, other.max);
  for (size_t i = 0; i < buckets.size(); ++i) buckets[i] += other.buckets[i];
}

LatencyHistogram LatencyHistogram::since(const LatencyHistogram& earlier) const {
  LatencyHistogram difference = *this;
  difference.sum -= std::min(sum, earlier.sum);
  for (size_t i = 0; i < buckets.size(); ++i)
    difference.buckets[i] -= std::min(buckets[i], earlier.buckets[i]);
  return difference;
}

void LatencyCounters::add_to(LatencyHistogram& histogram) const {
  histogram.sum += sum_.get();
  histogram.max = std::max(histogram.max, max_.get());
  for (size_t i = 0; i < buckets_.size(); ++i) histogram.buckets[i] += buckets_[i].get();
}

}  // namespace ublk_runner
