// SPDX-License-Identifier: MIT
#include "ctl/statistics_view.h"

#include <glib.h>
#include <ublk/error.h>

#include <array>
#include <cstdio>
#include <ctime>
#include <utility>
#include <vector>

namespace ublk_ctl {

namespace {

using ublk_runner::DeviceStatistics;
using ublk_runner::kOperations;
using ublk_runner::kStageNames;
using ublk_runner::LatencyHistogram;
using ublk_runner::OperationStatistics;
using ublk_runner::SlowRequest;

constexpr std::array<std::pair<const char*, double>, 4> kQuantiles = {
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}}};

std::string three_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value);
  return text;
}

std::string scaled(double value, double base, std::initializer_list<const char*> units) {
  const char* const* unit = units.begin();
  while (value >= base && unit + 1 != units.end()) {
    value /= base;
    ++unit;
  }
  return (unit == units.begin() && value == static_cast<double>(static_cast<uint64_t>(value))
              ? std::to_string(static_cast<uint64_t>(value))
              : three_digits(value)) +
         *unit;
}

std::string format_time(uint64_t nanoseconds) {
  const auto seconds = static_cast<time_t>(nanoseconds / 1'000'000'000);
  tm local{};
  localtime_r(&seconds, &local);
  char text[32];
  const size_t size = std::strftime(text, sizeof(text), "%F %T", &local);
  return std::string(text, size);
}

std::string result_text(int32_t result) { return result < 0 ? ublk::errno_name(-result) : "ok"; }

std::vector<std::string> stage_cells(
    const std::array<LatencyHistogram, kStageNames.size()>& stages) {
  const LatencyHistogram& total = stages[ublk_runner::kTotal];
  return {format_duration(total.mean()),
          format_duration(total.quantile(0.5)),
          format_duration(total.quantile(0.99)),
          format_duration(total.max),
          format_duration(stages[ublk_runner::kQueue].mean()),
          format_duration(stages[ublk_runner::kHandler].mean()),
          format_duration(stages[ublk_runner::kCommit].mean())};
}

std::string details(const std::string& name, const DeviceStatistics& device) {
  std::vector<std::pair<std::string, std::string>> pairs;
  const auto number = [](uint64_t value) { return value == 0 ? "" : std::to_string(value); };
  pairs.emplace_back("oldest in flight", format_duration(device.oldest));
  pairs.emplace_back("exceeded io_timeout", number(device.timed_out));
  pairs.emplace_back("failed for it", number(device.timeout_failures));
  pairs.emplace_back("answered late", number(device.late_answers));
  pairs.emplace_back("queues whose thread does not answer", number(device.silent_queues));
  std::string text = format_pairs(pairs);
  if (!device.slowest.empty()) {
    std::vector<Row> rows = {
        {"ENDED", "OP", "SECTOR", "LENGTH", "RESULT", "TOTAL", "QUEUE", "HANDLER", "COMMIT"}};
    for (const SlowRequest& request : device.slowest) {
      Row row = {format_time(request.ended), kOperations[request.operation].name,
                 request.length == 0 ? "" : std::to_string(request.sector),
                 request.length == 0 ? "" : format_bytes(request.length),
                 result_text(request.result)};
      for (const uint64_t time : request.stages) row.push_back(format_duration(time));
      rows.push_back(std::move(row));
    }
    text += "slowest requests:\n" + format_table(rows);
  }
  return text.empty() ? "" : '\n' + name + ":\n" + text;
}

Json to_json(const LatencyHistogram& histogram) {
  Json json = {{"mean", histogram.mean()}};
  for (const auto& [name, share] : kQuantiles) json[name] = histogram.quantile(share);
  json["max"] = histogram.max;
  json["sum"] = histogram.sum;
  return json;
}

Json to_json(const OperationStatistics& operation) {
  Json json = {{"requests", operation.requests},
               {"errors", operation.errors},
               {"bytes", operation.bytes},
               {"in_flight", operation.in_flight}};
  for (size_t i = 0; i < kStageNames.size(); ++i)
    json["nanoseconds"][kStageNames[i]] = to_json(operation.stages[i]);
  return json;
}

Json to_json(const SlowRequest& request) {
  Json json = {{"operation", kOperations[request.operation].name},
               {"sector", request.sector},
               {"length", request.length},
               {"result", request.result},
               {"ended", request.ended},
               {"queue", request.queue},
               {"tag", request.tag}};
  for (size_t i = 0; i < kStageNames.size(); ++i)
    json["nanoseconds"][kStageNames[i]] = request.stages[i];
  return json;
}

}  // namespace

std::string format_duration(uint64_t nanoseconds) {
  if (nanoseconds == 0) return "";
  return scaled(static_cast<double>(nanoseconds), 1000, {"ns", "us", "ms", "s"});
}

std::string format_rate(double value) { return scaled(value, 1000, {"", "k", "M", "G"}); }

std::string format_bytes(double bytes) {
  return scaled(bytes, 1024, {"", "K", "M", "G", "T", "P"});
}

std::string statistics_text(const Sample& sample, bool with_details) {
  std::vector<Row> rows = {{"NAME", "OP", "REQUESTS", "ERRORS", "BYTES", "IN FLIGHT", "MEAN", "P50",
                            "P99", "MAX", "QUEUE", "HANDLER", "COMMIT"}};
  std::string more;
  for (const auto& [name, device] : sample.devices) {
    for (size_t i = 0; i < kOperations.size(); ++i) {
      const OperationStatistics& operation = device.operations[i];
      if (operation.requests == 0 && operation.in_flight == 0) continue;
      Row row = {name,
                 kOperations[i].name,
                 std::to_string(operation.requests),
                 std::to_string(operation.errors),
                 format_bytes(static_cast<double>(operation.bytes)),
                 std::to_string(operation.in_flight)};
      for (std::string& cell : stage_cells(operation.stages)) row.push_back(std::move(cell));
      rows.push_back(std::move(row));
    }
    if (with_details) more += details(name, device);
  }
  return format_table(rows) + more;
}

std::string rates_text(const Sample& before, const Sample& after) {
  std::vector<Row> rows = {{"NAME", "OP", "REQUESTS/S", "ERRORS/S", "BYTES/S", "IN FLIGHT", "MEAN",
                            "P50", "P99", "MAX EVER", "QUEUE", "HANDLER", "COMMIT"}};
  const double seconds = seconds_between(before, after);
  for (const auto& [name, device] : after.devices) {
    const auto old = before.devices.find(name);
    if (old == before.devices.end()) continue;
    for (size_t i = 0; i < kOperations.size(); ++i) {
      const Rate rate = rate_of(old->second.operations[i], device.operations[i], seconds);
      if (rate.requests == 0 && rate.in_flight == 0) continue;
      Row row = {name,
                 kOperations[i].name,
                 format_rate(rate.requests),
                 format_rate(rate.errors),
                 format_bytes(rate.bytes),
                 std::to_string(rate.in_flight)};
      for (std::string& cell : stage_cells(rate.stages)) row.push_back(std::move(cell));
      rows.push_back(std::move(row));
    }
  }
  return format_table(rows);
}

Json to_json(const DeviceStatistics& statistics) {
  Json json = {{"enabled", statistics.enabled}};
  json["operations"] = Json::object();
  for (size_t i = 0; i < kOperations.size(); ++i)
    json["operations"][kOperations[i].name] = to_json(statistics.operations[i]);
  json["oldest"] = statistics.oldest;
  json["slowest"] = Json::array();
  for (const SlowRequest& request : statistics.slowest) json["slowest"].push_back(to_json(request));
  json["timed_out"] = statistics.timed_out;
  json["timeout_failures"] = statistics.timeout_failures;
  json["late_answers"] = statistics.late_answers;
  json["silent_queues"] = statistics.silent_queues;
  return json;
}

Json to_json(const Sample& sample) {
  Json json = Json::object();
  for (const auto& [name, device] : sample.devices) json[name] = to_json(device);
  return json;
}

}  // namespace ublk_ctl
