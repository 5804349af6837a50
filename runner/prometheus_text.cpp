// SPDX-License-Identifier: MIT
#include "prometheus_text.h"

#include <cstdio>
#include <utility>

namespace ublk_runner {

namespace {

using Labels = std::vector<std::pair<const char*, std::string>>;

std::string escape_label(const std::string& value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '\n') {
      escaped += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string in_seconds(uint64_t nanoseconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.12g", static_cast<double>(nanoseconds) * 1e-9);
  return text;
}

class Text {
 public:
  explicit Text(const std::vector<NamedStatistics>& devices) : devices_(devices) {}

  std::string take() { return std::move(text_); }

  // One sample for each device.
  template <class Value>
  void of_devices(const char* name, const char* type, const char* help, Value value) {
    describe(name, type, help);
    for (const NamedStatistics& device : devices_)
      sample(name, {{"device", device.device}}, value(device.statistics));
  }

  // One for each operation of each device.
  void of_operations(const char* name, const char* type, const char* help,
                     uint64_t OperationStatistics::*value) {
    describe(name, type, help);
    for_each_operation([&](Labels labels, const OperationStatistics& operation) {
      sample(name, labels, std::to_string(operation.*value));
    });
  }

  // Histograms of the operations that there were.
  void of_total(const char* name, const char* help) {
    describe(name, "histogram", help);
    for_each_operation([&](Labels labels, const OperationStatistics& operation) {
      if (operation.requests != 0) histogram(name, labels, operation.stages[kTotal]);
    });
  }
  void of_stages(const char* name, const char* help) {
    describe(name, "histogram", help);
    for_each_operation([&](const Labels& labels, const OperationStatistics& operation) {
      if (operation.requests == 0) return;
      for (size_t stage = kQueue; stage < operation.stages.size(); ++stage) {
        Labels with_stage = labels;
        with_stage.emplace_back("stage", kStageNames[stage]);
        histogram(name, with_stage, operation.stages[stage]);
      }
    });
  }

 private:
  void describe(const char* name, const char* type, const char* help) {
    text_ += std::string("# HELP ") + name + ' ' + help + '\n';
    text_ += std::string("# TYPE ") + name + ' ' + type + '\n';
  }

  void sample(const std::string& name, const Labels& labels, const std::string& value) {
    text_ += name;
    char separator = '{';
    for (const auto& [label, content] : labels) {
      text_ += separator + std::string(label) + "=\"" + escape_label(content) + '"';
      separator = ',';
    }
    text_ += "} " + value + '\n';
  }

  // A bucket for each power of 4; those of the statistics are finer.
  void histogram(const std::string& name, const Labels& labels, const LatencyHistogram& latency) {
    constexpr size_t kStep = 2 * LatencyBuckets::kPerOctave;
    uint64_t below = 0;
    for (size_t i = 0; i + 1 < latency.buckets.size(); ++i) {
      below += latency.buckets[i];
      if (i == 0 || i % kStep != 0) continue;
      Labels with_bound = labels;
      with_bound.emplace_back("le", in_seconds(LatencyBuckets::end(i)));
      sample(name + "_bucket", with_bound, std::to_string(below));
    }
    Labels with_bound = labels;
    with_bound.emplace_back("le", "+Inf");
    const std::string count = std::to_string(latency.count());
    sample(name + "_bucket", with_bound, count);
    sample(name + "_sum", labels, in_seconds(latency.sum));
    sample(name + "_count", labels, count);
  }

  template <class Visit>
  void for_each_operation(Visit visit) {
    for (const NamedStatistics& device : devices_)
      for (size_t i = 0; i < kOperations.size(); ++i)
        visit(Labels{{"device", device.device}, {"operation", kOperations[i].name}},
              device.statistics.operations[i]);
  }

  const std::vector<NamedStatistics>& devices_;
  std::string text_;
};

}  // namespace

std::string prometheus_text(const std::vector<NamedStatistics>& devices) {
  Text text(devices);
  text.of_operations("ublk_requests_total", "counter", "Requests that have ended.",
                     &OperationStatistics::requests);
  text.of_operations("ublk_request_errors_total", "counter",
                     "Requests that have ended with an error.", &OperationStatistics::errors);
  text.of_operations("ublk_request_bytes_total", "counter", "Bytes of requests without an error.",
                     &OperationStatistics::bytes);
  text.of_operations("ublk_requests_in_flight", "gauge", "Requests that have not ended.",
                     &OperationStatistics::in_flight);
  text.of_total("ublk_request_duration_seconds",
                "Time from the arrival of a request until the kernel gets its result.");
  text.of_stages("ublk_request_stage_duration_seconds",
                 "Parts of it: waiting in the runner, in the handler, and on the way back.");
  text.of_devices("ublk_request_oldest_seconds", "gauge",
                  "Time since the arrival of the oldest request in flight.",
                  [](const DeviceStatistics& s) { return in_seconds(s.oldest); });
  text.of_devices("ublk_request_timeouts_total", "counter",
                  "Requests that have exceeded io_timeout.",
                  [](const DeviceStatistics& s) { return std::to_string(s.timed_out); });
  text.of_devices("ublk_request_timeout_failures_total", "counter",
                  "Requests that were failed because of io_timeout.",
                  [](const DeviceStatistics& s) { return std::to_string(s.timeout_failures); });
  text.of_devices("ublk_request_late_answers_total", "counter",
                  "Requests that the handler has answered after they were failed.",
                  [](const DeviceStatistics& s) { return std::to_string(s.late_answers); });
  text.of_devices("ublk_silent_queues", "gauge", "Queues whose thread does not answer.",
                  [](const DeviceStatistics& s) { return std::to_string(s.silent_queues); });
  return text.take();
}

}  // namespace ublk_runner
