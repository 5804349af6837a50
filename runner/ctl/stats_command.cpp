// SPDX-License-Identifier: MIT
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>

#include "ctl/command.h"
#include "ctl/statistics_sample.h"
#include "ctl/statistics_view.h"
#include "prometheus_text.h"

namespace ublk_ctl {

namespace {

constexpr size_t kFewDevices = 1;  // that are shown with all details

std::string prometheus(const Sample& sample) {
  std::vector<ublk_runner::NamedStatistics> devices;
  for (const auto& [name, statistics] : sample.devices) devices.push_back({name, statistics});
  return ublk_runner::prometheus_text(devices);
}

// Until it is killed, or nobody reads it.
ExitStatus watch(const Call& call, RunnerClient& client, Sample before) {
  const auto interval =
      std::chrono::duration<double>(parse_seconds("watch", call.option("watch", "1")));
  for (;;) {
    std::this_thread::sleep_for(interval);
    Sample after = take_sample(client, call.arguments);
    print_text(call.json() ? to_json(after).dump() + '\n' : rates_text(before, after) + '\n');
    if (fflush(stdout) != 0) return kExitFailed;
    before = std::move(after);
  }
}

ExitStatus stats(const Call& call) {
  if (call.has("prometheus") && (call.json() || call.has("watch")))
    throw CommandError(kExitUsage, "expected --prometheus without --json and --watch");
  if (call.has("watch")) parse_seconds("watch", call.option("watch", ""));
  RunnerClient client(call);
  Sample sample = take_sample(client, call.arguments);
  if (call.has("prometheus")) {
    print_text(prometheus(sample));
    return kExitOk;
  }
  if (const std::string why = why_nothing_counts(sample); !why.empty())
    fprintf(stderr, "ublkctl: %s\n", why.c_str());
  if (call.has("watch")) return watch(call, client, std::move(sample));
  if (call.json())
    print_json(to_json(sample));
  else
    print_text(statistics_text(sample, sample.devices.size() <= kFewDevices));
  return kExitOk;
}

}  // namespace

double parse_seconds(const std::string& option, const std::string& text) {
  constexpr double kLongest = 86400;
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || !(seconds >= 0.1) ||
      seconds > kLongest)
    throw CommandError(kExitUsage,
                       "--" + option + ": expected seconds from 0.1 to 86400, not \"" + text + '"');
  return seconds;
}

Command stats_command() {
  return {"stats",
          "[NAME...]",
          "How much I/O there was, and how long it took",
          0,
          kAnyNumber,
          {{"watch", "SECONDS", "Go on, with what happens in each so many seconds (1)", "1"},
           {"prometheus", nullptr, "Write the text format of Prometheus"}},
          stats};
}

}  // namespace ublk_ctl
