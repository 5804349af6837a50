// SPDX-License-Identifier: MIT
// Statistics as values: histograms, what D-Bus carries, the text for Prometheus.
#include <device_statistics.h>
#include <gtest/gtest.h>
#include <latency_histogram.h>
#include <prometheus_text.h>
#include <statistics_variant.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "test_data.h"

namespace ublk_runner {
namespace {

// ------------------------------------------------------------------ histogram --

TEST(LatencyBuckets, AreInOrderWithoutGapsAndOverlaps) {
  uint64_t begin = 0;
  for (size_t i = 0; i + 1 < LatencyBuckets::kCount; ++i) {
    const uint64_t end = LatencyBuckets::end(i);
    ASSERT_GT(end, begin);
    EXPECT_EQ(LatencyBuckets::of(begin), i);
    EXPECT_EQ(LatencyBuckets::of(end - 1), i);
    if (i > 0) {
      EXPECT_LE(end - begin, begin / 4) << "a quarter wider than where it begins";
    }
    begin = end;
  }
  EXPECT_EQ(begin, uint64_t{1} << 36);
  EXPECT_EQ(LatencyBuckets::of(begin), LatencyBuckets::kCount - 1);
  EXPECT_EQ(LatencyBuckets::of(UINT64_MAX), LatencyBuckets::kCount - 1);
}

LatencyHistogram histogram_of(const std::vector<uint64_t>& times) {
  LatencyCounters counters;
  for (const uint64_t time : times) counters.add(time);
  LatencyHistogram histogram;
  counters.add_to(histogram);
  return histogram;
}

TEST(LatencyHistogram, QuantilesAreRightToTheWidthOfABucket) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> times(11, 1.5);  // around 60 us
  std::vector<uint64_t> all;
  for (int i = 0; i < 20000; ++i) all.push_back(static_cast<uint64_t>(times(random)));
  const LatencyHistogram histogram = histogram_of(all);
  std::sort(all.begin(), all.end());
  EXPECT_EQ(histogram.count(), all.size());
  EXPECT_EQ(histogram.max, all.back());
  for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double exact = static_cast<double>(all[static_cast<size_t>(share * 20000)]);
    EXPECT_NEAR(static_cast<double>(histogram.quantile(share)), exact, exact / 4 + 256) << share;
  }
  EXPECT_EQ(histogram.quantile(1), all.back());
}

TEST(LatencyHistogram, AnEmptyOneHasNoTimes) {
  const LatencyHistogram empty;
  EXPECT_EQ(empty.count(), 0u);
  EXPECT_EQ(empty.mean(), 0u);
  EXPECT_EQ(empty.quantile(0.5), 0u);
}

TEST(LatencyHistogram, SumsAndDifferencesAreThoseOfTheirTimes) {
  const LatencyHistogram before = histogram_of({1000, 50'000});
  const LatencyHistogram more = histogram_of({2'000'000'000, 90, uint64_t{1} << 40});
  LatencyHistogram all = before;
  all.add(more);
  EXPECT_EQ(all.count(), 5u);
  EXPECT_EQ(all.sum, 51'000 + 2'000'000'090 + (uint64_t{1} << 40));
  EXPECT_EQ(all.max, uint64_t{1} << 40);
  const LatencyHistogram difference = all.since(before);
  EXPECT_EQ(difference.count(), 3u);
  EXPECT_EQ(difference.sum, more.sum);
  EXPECT_EQ(difference.buckets, more.buckets);
}

TEST(DeviceStatistics, KeepTheTenSlowestOfAllQueues) {
  DeviceStatistics all;
  for (uint32_t queue = 0; queue < 3; ++queue) {
    DeviceStatistics one;
    for (uint64_t i = 0; i < 10; ++i) {
      SlowRequest request;
      request.queue = queue;
      request.stages[kTotal] = 100 * i + queue;
      one.slowest.push_back(request);
    }
    all.add(one);
  }
  ASSERT_EQ(all.slowest.size(), DeviceStatistics::kSlowest);
  EXPECT_EQ(all.slowest.front().stages[kTotal], 902u);
  EXPECT_EQ(all.slowest.back().stages[kTotal], 602u);
}

// ---------------------------------------------------------------------- D-Bus --

DeviceStatistics example() {
  DeviceStatistics statistics;
  statistics.enabled = true;
  OperationStatistics& write = statistics.operations[1];
  write.requests = 3;
  write.errors = 1;
  write.bytes = 8192;
  write.in_flight = 2;
  for (size_t i = 0; i < write.stages.size(); ++i)
    write.stages[i] = histogram_of({1000 + i, 70'000 + i, uint64_t{1} << 40});
  statistics.oldest = 5'000'000'000;
  SlowRequest slow;
  slow.ended = 1'700'000'000'000'000'000;
  slow.sector = uint64_t{1} << 40;
  slow.length = 4096;
  slow.result = -ETIMEDOUT;
  slow.queue = 3;
  slow.tag = 17;
  slow.operation = 1;
  slow.stages = {10, 2, 5, 3};
  statistics.slowest = {slow, slow};
  statistics.timed_out = 4;
  statistics.timeout_failures = 3;
  statistics.late_answers = 2;
  statistics.silent_queues = 1;
  return statistics;
}

TEST(StatisticsVariant, BringsBackAllThatWasSent) {
  const DeviceStatistics sent = example();
  const Variant variant = own_variant(to_variant(sent));
  EXPECT_TRUE(g_variant_is_of_type(variant.get(), G_VARIANT_TYPE_VARDICT));
  const DeviceStatistics got = statistics_from_variant(variant.get());
  EXPECT_EQ(got.enabled, sent.enabled);
  for (size_t i = 0; i < kOperations.size(); ++i) {
    EXPECT_EQ(got.operations[i].requests, sent.operations[i].requests);
    EXPECT_EQ(got.operations[i].errors, sent.operations[i].errors);
    EXPECT_EQ(got.operations[i].bytes, sent.operations[i].bytes);
    EXPECT_EQ(got.operations[i].in_flight, sent.operations[i].in_flight);
    for (size_t stage = 0; stage < kStageNames.size(); ++stage) {
      EXPECT_EQ(got.operations[i].stages[stage].sum, sent.operations[i].stages[stage].sum);
      EXPECT_EQ(got.operations[i].stages[stage].max, sent.operations[i].stages[stage].max);
      EXPECT_EQ(got.operations[i].stages[stage].buckets, sent.operations[i].stages[stage].buckets);
    }
  }
  EXPECT_EQ(got.oldest, sent.oldest);
  ASSERT_EQ(got.slowest.size(), 2u);
  const SlowRequest& slow = got.slowest[1];
  EXPECT_EQ(slow.ended, sent.slowest[1].ended);
  EXPECT_EQ(slow.sector, sent.slowest[1].sector);
  EXPECT_EQ(slow.length, 4096u);
  EXPECT_EQ(slow.result, -ETIMEDOUT);
  EXPECT_EQ(slow.queue, 3u);
  EXPECT_EQ(slow.tag, 17u);
  EXPECT_EQ(slow.operation, 1);
  EXPECT_EQ(slow.stages, sent.slowest[1].stages);
  EXPECT_EQ(got.timed_out, 4u);
  EXPECT_EQ(got.timeout_failures, 3u);
  EXPECT_EQ(got.late_answers, 2u);
  EXPECT_EQ(got.silent_queues, 1u);
}

// A runner of another release.
TEST(StatisticsVariant, UnknownAndMissingKeysAreLeftOut) {
  GVariantBuilder builder;
  g_variant_builder_init(&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add(&builder, "{sv}", "Enabled", g_variant_new_string("yes"));
  g_variant_builder_add(&builder, "{sv}", "Colour", g_variant_new_uint32(3));
  g_variant_builder_add(&builder, "{sv}", "TimedOut", g_variant_new_uint64(9));
  const Variant variant = own_variant(g_variant_builder_end(&builder));
  const DeviceStatistics got = statistics_from_variant(variant.get());
  EXPECT_FALSE(got.enabled);
  EXPECT_EQ(got.timed_out, 9u);
  EXPECT_TRUE(got.slowest.empty());
}

// ----------------------------------------------------------------- Prometheus --

bool has_line(const std::string& text, const std::string& line) {
  return ('\n' + text).find('\n' + line + '\n') != std::string::npos;
}

TEST(PrometheusText, HasCountersWithTheirLabels) {
  const std::string text = prometheus_text({{"disk0", example()}, {"disk1", {}}});
  EXPECT_TRUE(has_line(text, "# TYPE ublk_requests_total counter"));
  EXPECT_TRUE(has_line(text, R"(ublk_requests_total{device="disk0",operation="write"} 3)"));
  EXPECT_TRUE(has_line(text, R"(ublk_requests_total{device="disk1",operation="read"} 0)"));
  EXPECT_TRUE(has_line(text, R"(ublk_request_errors_total{device="disk0",operation="write"} 1)"));
  EXPECT_TRUE(has_line(text, R"(ublk_request_bytes_total{device="disk0",operation="write"} 8192)"));
  EXPECT_TRUE(has_line(text, R"(ublk_requests_in_flight{device="disk0",operation="write"} 2)"));
  EXPECT_TRUE(has_line(text, R"(ublk_request_oldest_seconds{device="disk0"} 5)"));
  EXPECT_TRUE(has_line(text, R"(ublk_request_timeout_failures_total{device="disk0"} 3)"));
}

TEST(PrometheusText, HistogramsAreCumulativeAndInSeconds) {
  const std::string text = prometheus_text({{"disk0", example()}});
  const std::string labels = R"({device="disk0",operation="write")";
  const std::string name = "ublk_request_duration_seconds";
  EXPECT_TRUE(has_line(text, "# TYPE " + name + " histogram"));
  EXPECT_TRUE(has_line(text, name + "_bucket" + labels + R"(,le="1.024e-06"} 1)"));
  EXPECT_TRUE(has_line(text, name + "_bucket" + labels + R"(,le="6.5536e-05"} 1)"));
  EXPECT_TRUE(has_line(text, name + "_bucket" + labels + R"(,le="0.000262144"} 2)"));
  EXPECT_TRUE(has_line(text, name + "_bucket" + labels + R"(,le="68.719476736"} 2)"));
  EXPECT_TRUE(has_line(text, name + "_bucket" + labels + R"(,le="+Inf"} 3)"));
  EXPECT_TRUE(has_line(text, name + "_count" + labels + "} 3"));
  EXPECT_TRUE(has_line(
      text, "ublk_request_stage_duration_seconds_count" + labels + R"(,stage="handler"} 3)"));
  EXPECT_EQ(text.find(R"(operation="read",le=)"), std::string::npos) << "there was none";
}

TEST(PrometheusText, LabelsAreEscaped) {
  const std::string text = prometheus_text({{"a\"b\\c\nd", {}}});
  EXPECT_TRUE(has_line(text, R"(ublk_silent_queues{device="a\"b\\c\nd"} 0)"));
}

TEST(PrometheusText, IsWhatPrometheusOwnParserReads) {
  const test::TempDir dir;
  const std::string path = dir / "statistics.prom";
  std::ofstream(path) << prometheus_text(
      {{"disk0", example()}, {"a\"b\\c\nd", example()}, {"idle", {}}});
  EXPECT_EQ(std::system((UBLK_CHECK_PROMETHEUS " " + path + " >/dev/null").c_str()), 0);
}

}  // namespace
}  // namespace ublk_runner
