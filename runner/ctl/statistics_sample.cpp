// SPDX-License-Identifier: MIT
#include "ctl/statistics_sample.h"

#include <algorithm>

namespace ublk_ctl {

using ublk_runner::OperationStatistics;

Sample take_sample(RunnerClient& client, const std::vector<std::string>& names) {
  Sample sample;
  sample.at = std::chrono::steady_clock::now();
  const Json devices = client.devices();
  for (const std::string& name : names) {
    const bool known = std::any_of(devices.begin(), devices.end(),
                                   [&](const Json& device) { return device["name"] == name; });
    if (!known) throw CommandError(kExitNotFound, "there is no device \"" + name + '"');
  }
  for (const Json& device : devices) {
    const auto name = device["name"].get<std::string>();
    if (!names.empty() && std::find(names.begin(), names.end(), name) == names.end()) continue;
    try {
      sample.devices[name] = client.statistics(name);
    } catch (const CommandError& e) {
      // Of all devices one may have gone since; one that was asked for must be told.
      if (!names.empty() || e.status() == kExitNoRunner || e.status() == kExitNotPermitted) throw;
    }
  }
  return sample;
}

std::string why_nothing_counts(const Sample& sample) {
  const bool off = !sample.devices.empty() &&
                   std::none_of(sample.devices.begin(), sample.devices.end(),
                                [](const auto& device) { return device.second.enabled; });
  return off ? "nothing is counted: statistics = true is not in [runner] of the configuration" : "";
}

Rate rate_of(const OperationStatistics& before, const OperationStatistics& after, double seconds) {
  const bool anew = after.requests < before.requests;
  const OperationStatistics from = anew ? OperationStatistics{} : before;
  const auto a_second = [seconds](uint64_t then, uint64_t now) {
    return seconds > 0 && now > then ? static_cast<double>(now - then) / seconds : 0;
  };
  Rate rate;
  rate.requests = a_second(from.requests, after.requests);
  rate.bytes = a_second(from.bytes, after.bytes);
  rate.errors = a_second(from.errors, after.errors);
  rate.in_flight = after.in_flight;
  for (size_t i = 0; i < rate.stages.size(); ++i)
    rate.stages[i] = after.stages[i].since(from.stages[i]);
  return rate;
}

void Rate::add(const Rate& other) {
  requests += other.requests;
  bytes += other.bytes;
  errors += other.errors;
  in_flight += other.in_flight;
  for (size_t i = 0; i < stages.size(); ++i) stages[i].add(other.stages[i]);
}

double seconds_between(const Sample& before, const Sample& after) {
  return std::chrono::duration<double>(after.at - before.at).count();
}

}  // namespace ublk_ctl
