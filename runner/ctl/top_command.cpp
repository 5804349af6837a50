// SPDX-License-Identifier: MIT
//
// A table of the devices that do most, which is drawn anew from time to time.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string_view>
#include <utility>
#include <vector>

#include "ctl/command.h"
#include "ctl/statistics_sample.h"
#include "ctl/statistics_view.h"

namespace ublk_ctl {

namespace {

using ublk_runner::kOperations;

enum class Order : uint8_t { kRequests, kBytes, kLatency };
constexpr std::array<std::string_view, 3> kOrders = {"iops", "bandwidth", "latency"};
constexpr std::array<char, 3> kOrderKeys = {'i', 'b', 'l'};

struct Line {
  std::string name;
  Rate reads;
  Rate writes;
  Rate all;
};

std::vector<Line> lines_of(const Sample& before, const Sample& after, Order order) {
  const double seconds = seconds_between(before, after);
  std::vector<Line> lines;
  for (const auto& [name, device] : after.devices) {
    const auto old = before.devices.find(name);
    if (old == before.devices.end()) continue;
    Line line;
    line.name = name;
    for (size_t i = 0; i < kOperations.size(); ++i) {
      const Rate rate = rate_of(old->second.operations[i], device.operations[i], seconds);
      line.all.add(rate);
      if (i == 0) line.reads = rate;
      if (i == 1) line.writes = rate;
    }
    lines.push_back(std::move(line));
  }
  const auto weight = [order](const Line& line) {
    switch (order) {
      case Order::kBytes:
        return line.all.bytes;
      case Order::kLatency:
        return static_cast<double>(line.all.stages[ublk_runner::kTotal].quantile(0.99));
      case Order::kRequests:
        break;
    }
    return line.all.requests;
  };
  std::stable_sort(lines.begin(), lines.end(),
                   [&](const Line& a, const Line& b) { return weight(a) > weight(b); });
  return lines;
}

std::string table(const std::vector<Line>& lines, size_t most) {
  std::vector<Row> rows = {{"NAME", "READ/S", "WRITE/S", "READ B/S", "WRITE B/S", "OTHER/S",
                            "ERR/S", "IN FLIGHT", "MEAN", "P50", "P99", "QUEUE", "HANDLER",
                            "COMMIT"}};
  for (const Line& line : lines) {
    if (rows.size() > most) break;
    const auto& total = line.all.stages[ublk_runner::kTotal];
    const auto mean = [&line](ublk_runner::Stage stage) {
      return format_duration(line.all.stages[stage].mean());
    };
    rows.push_back({line.name, format_rate(line.reads.requests), format_rate(line.writes.requests),
                    format_bytes(line.reads.bytes), format_bytes(line.writes.bytes),
                    format_rate(line.all.requests - line.reads.requests - line.writes.requests),
                    format_rate(line.all.errors), std::to_string(line.all.in_flight),
                    format_duration(total.mean()), format_duration(total.quantile(0.5)),
                    format_duration(total.quantile(0.99)), mean(ublk_runner::kQueue),
                    mean(ublk_runner::kHandler), mean(ublk_runner::kCommit)});
  }
  return format_table(rows);
}

volatile std::sig_atomic_t interrupted = 0;

// A terminal whose keys come one by one, and which is as it was at the end.
class Terminal {
 public:
  // Without `wanted` it is taken for none.
  explicit Terminal(bool wanted)
      : is_one_(wanted && isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0) {
    if (!is_one_) return;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
    tcgetattr(STDIN_FILENO, &before_);
    termios keys = before_;
    keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    keys.c_cc[VMIN] = 1;
    keys.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    print_text("\x1b[?1049h\x1b[?25l");  // the other screen, without a cursor
  }
  ~Terminal() {
    if (!is_one_) return;
    print_text("\x1b[?25h\x1b[?1049l");
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool is_one() const { return is_one_; }
  size_t lines() const {
    winsize size{};
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 4 ? size.ws_row : 24;
  }

  // Waits so long, or until a key is pressed, which it returns; '\0': none.
  char wait(std::chrono::milliseconds time) const {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    const int ready = poll(&input, is_one_ ? 1 : 0, static_cast<int>(time.count()));
    char key = '\0';
    if (ready > 0 && read(STDIN_FILENO, &key, 1) != 1) key = 'q';
    return key;
  }

 private:
  const bool is_one_;
  termios before_{};
};

uint64_t parse_count(const std::string& text) {
  uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count == 0)
    throw CommandError(kExitUsage, "--count: expected a number from 1, not \"" + text + '"');
  return count;
}

Order parse_order(const std::string& text) {
  const auto* order = std::find(kOrders.begin(), kOrders.end(), text);
  if (order == kOrders.end())
    throw CommandError(kExitUsage,
                       "--sort: expected iops, bandwidth or latency, not \"" + text + '"');
  return static_cast<Order>(order - kOrders.begin());
}

// Waits for the time, and takes the keys that are pressed. False: one of them was to end.
bool wait(const Terminal& terminal, std::chrono::milliseconds time, Order& order) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + time;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (interrupted != 0) return false;
    if (left.count() <= 0) return true;
    const char key = terminal.wait(left);
    if (key == 'q' || key == 'Q') return false;
    if (const auto* known = std::find(kOrderKeys.begin(), kOrderKeys.end(), key);
        known != kOrderKeys.end()) {
      order = static_cast<Order>(known - kOrderKeys.begin());
      return true;
    }
  }
}

ExitStatus top(const Call& call) {
  const auto delay = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(parse_seconds("delay", call.option("delay", "2"))));
  const uint64_t rounds = call.has("count") ? parse_count(call.option("count", "")) : UINT64_MAX;
  Order order = parse_order(call.option("sort", "iops"));
  RunnerClient client(call);
  Sample before = take_sample(client, call.arguments);
  const Terminal terminal(!call.json());
  const std::string off = why_nothing_counts(before);
  if (!off.empty() && !terminal.is_one()) fprintf(stderr, "ublkctl: %s\n", off.c_str());
  for (uint64_t round = 0; round < rounds; ++round) {
    if (!wait(terminal, delay, order)) break;
    Sample after = take_sample(client, call.arguments);
    const std::vector<Line> lines = lines_of(before, after, order);
    if (call.json()) {
      print_text(to_json(after).dump() + '\n');
    } else if (terminal.is_one()) {
      print_text("\x1b[H\x1b[J");
      print_text(std::to_string(lines.size()) + " devices, by " +
                 std::string(kOrders[static_cast<size_t>(order)]) +
                 "; i: iops, b: bandwidth, l: latency, q: end\n" + why_nothing_counts(after) +
                 '\n' + table(lines, terminal.lines() - 4));
    } else {
      print_text(table(lines, SIZE_MAX) + '\n');
    }
    if (fflush(stdout) != 0) return kExitFailed;
    before = std::move(after);
  }
  return kExitOk;
}

}  // namespace

Command top_command() {
  return {"top",
          "[NAME...]",
          "The devices that do most, drawn anew all the time",
          0,
          kAnyNumber,
          {{"count", "COUNT", "Rounds after which it ends (none)", nullptr, 'n'},
           {"delay", "SECONDS", "Time between rounds (2)", nullptr, 'd'},
           {"sort", "ORDER", "iops, bandwidth or latency (iops)"}},
          top};
}

}  // namespace ublk_ctl
