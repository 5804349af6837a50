// SPDX-License-Identifier: MIT
// What ublkctl reads and writes, and what it judges by.
#include <ctl/checks.h>
#include <ctl/command_line.h>
#include <ctl/kernel.h>
#include <ctl/kernel_devices.h>
#include <ctl/output.h>
#include <ctl/runner_client.h>
#include <ctl/settings.h>
#include <ctl/statistics_sample.h>
#include <ctl/statistics_view.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ublk_ctl {
namespace {

using Words = std::vector<std::string>;

std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const CommandError& e) {
    EXPECT_EQ(e.status(), kExitUsage);
    return e.what();
  }
  return "no error";
}

std::string line_error(const Words& words) {
  return usage_error([&] { parse_command_line(words); });
}

// ----------------------------------------------------------------- statistics --

TEST(CtlStatistics, NumbersHaveThreeDigits) {
  EXPECT_EQ(format_duration(0), "");
  EXPECT_EQ(format_duration(850), "850ns");
  EXPECT_EQ(format_duration(1234), "1.23us");
  EXPECT_EQ(format_duration(99'960), "100us");
  EXPECT_EQ(format_duration(12'345'678), "12.3ms");
  EXPECT_EQ(format_duration(125'000'000'000), "125s");
  EXPECT_EQ(format_rate(0), "0");
  EXPECT_EQ(format_rate(999), "999");
  EXPECT_EQ(format_rate(0.5), "0.50");
  EXPECT_EQ(format_rate(56'789), "56.8k");
  EXPECT_EQ(format_bytes(4096), "4.00K");
}

TEST(CtlStatistics, RatesAreOfTheTimeBetween) {
  ublk_runner::OperationStatistics before;
  before.requests = 100;
  before.bytes = 1000;
  ublk_runner::OperationStatistics after = before;
  after.requests = 150;
  after.bytes = 3000;
  after.in_flight = 4;
  const Rate rate = rate_of(before, after, 2);
  EXPECT_EQ(rate.requests, 25);
  EXPECT_EQ(rate.bytes, 1000);
  EXPECT_EQ(rate.in_flight, 4u);
  // The device was removed and added again.
  EXPECT_EQ(rate_of(after, before, 2).requests, 50);
}

TEST(CtlStatistics, TableHasWhatThereWas) {
  Sample sample;
  auto& disk = sample.devices["disk"];
  disk.operations[1].requests = 7;
  disk.operations[1].bytes = 8192;
  disk.timed_out = 3;
  ublk_runner::SlowRequest slow;
  slow.operation = 1;
  slow.sector = 1024;
  slow.length = 4096;
  slow.result = -ETIMEDOUT;
  slow.stages = {5'000'000, 1'000'000, 4'000'000, 0};
  disk.slowest = {slow};
  const std::string text = statistics_text(sample, true);
  EXPECT_NE(text.find("disk  write  7         0       8.00K"), std::string::npos) << text;
  EXPECT_EQ(text.find("read"), std::string::npos) << "there was none";
  EXPECT_NE(text.find("exceeded io_timeout: 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("1024    4.00K   ETIMEDOUT  5.00ms  1.00ms  4.00ms"), std::string::npos)
      << text;
  EXPECT_EQ(to_json(sample)["disk"]["slowest"][0]["nanoseconds"]["handler"], 4'000'000);
}

// --------------------------------------------------------------- command line --

TEST(CtlCommandLine, TakesOptionsAnywhere) {
  for (const Words& words :
       {Words{"--json", "remove", "--force", "disk"}, Words{"remove", "disk", "--force", "--json"},
        Words{"remove", "--json", "--force", "--", "disk"}}) {
    const CommandLine line = parse_command_line(words);
    EXPECT_STREQ(line.command->name, "remove");
    EXPECT_EQ(line.call.arguments, Words{"disk"});
    EXPECT_TRUE(line.call.json());
    EXPECT_TRUE(line.call.has("force"));
    EXPECT_FALSE(line.call.has("system"));
  }
}

TEST(CtlCommandLine, KeepsTextsOfOptions) {
  EXPECT_EQ(parse_command_line({"--socket=/a", "list"}).call.option("socket", ""), "/a");
  EXPECT_EQ(parse_command_line({"list", "--socket", "/b"}).call.option("socket", ""), "/b");
  EXPECT_EQ(parse_command_line({"list"}).call.option("socket", "none"), "none");
}

TEST(CtlCommandLine, AnOptionMayHaveAnArgumentOfItsOwn) {
  const auto watch = [](const Words& words) {
    const CommandLine line = parse_command_line(words);
    EXPECT_EQ(line.call.arguments, Words{"disk"});
    return line.call.option("watch", "none");
  };
  EXPECT_EQ(watch({"stats", "--watch", "disk"}), "1");
  EXPECT_EQ(watch({"stats", "--watch=0.5", "disk"}), "0.5");
  EXPECT_EQ(watch({"stats", "disk"}), "none");
}

TEST(CtlCommandLine, TakesShortOptions) {
  const CommandLine line = parse_command_line({"top", "-n", "3", "-d", "0.5"});
  EXPECT_EQ(line.call.option("count", ""), "3");
  EXPECT_EQ(line.call.option("delay", ""), "0.5");
  EXPECT_TRUE(line.call.arguments.empty());
}

TEST(CtlCommandLine, TimesAreSeconds) {
  EXPECT_EQ(parse_seconds("delay", "0.5"), 0.5);
  for (const char* wrong : {"", "0", "-1", "1s", "nan", "1e9"})
    EXPECT_EQ(usage_error([&] { parse_seconds("delay", wrong); }),
              std::string("--delay: expected seconds from 0.1 to 86400, not \"") + wrong + '"');
}

TEST(CtlCommandLine, SaysWhatIsWrong) {
  EXPECT_EQ(line_error({}), "expected a command");
  EXPECT_EQ(line_error({"lst"}), "unknown command \"lst\", expected list");
  EXPECT_EQ(line_error({"list", "x"}), "list: expected no argument");
  EXPECT_EQ(line_error({"show"}), "show: expected NAME");
  EXPECT_EQ(line_error({"resize", "disk"}), "resize: expected NAME SIZE");
  EXPECT_EQ(line_error({"list", "--force"}), "Unknown option --force");
  EXPECT_EQ(line_error({"--bogus", "list"}), "Unknown option --bogus");
}

TEST(CtlSettings, AreKeysAndValues) {
  const Words words = {"handler=file", "path=/a=b", "note="};
  const auto settings = parse_settings(words);
  EXPECT_EQ(settings.at("path"), "/a=b");
  EXPECT_EQ(settings.at("note"), "");
  EXPECT_EQ(settings.size(), 3u);
}

TEST(CtlSettings, SayWhatIsWrong) {
  const auto error = [](const Words& words) { return usage_error([&] { parse_settings(words); }); };
  EXPECT_EQ(error({"file"}), "expected KEY=VALUE, not \"file\"");
  EXPECT_EQ(error({"=x"}), "expected KEY=VALUE, not \"=x\"");
  EXPECT_EQ(error({"a=1", "a=2"}), "key \"a\" is given twice");
  EXPECT_EQ(parse_size("2G"), uint64_t{2} << 30);
  EXPECT_NE(usage_error([] { parse_size("2GB"); }).find("not \"2GB\""), std::string::npos);
  EXPECT_NE(usage_error([] { parse_size("0"); }), "no error");
}

// --------------------------------------------------------------------- output --

TEST(CtlOutput, TablesHaveColumns) {
  EXPECT_EQ(format_table({{"NAME", "SIZE", "TROUBLE"}, {"a", "16M", ""}, {"längste", "", ""}}),
            "NAME     SIZE\n"
            "a        16M\n"
            "längste  -\n");
  EXPECT_EQ(format_table({{"NAME", "SIZE"}}), "NAME  SIZE\n");
}

TEST(CtlOutput, PairsAreAligned) {
  EXPECT_EQ(format_pairs({{"name", "a"}, {"trouble", ""}, {"size", "16M"}}),
            "name: a\nsize: 16M\n");
}

TEST(CtlOutput, DbusValuesBecomeJson) {
  EXPECT_EQ(snake_case("QueueDepth"), "queue_depth");
  EXPECT_EQ(snake_case("Name"), "name");
  const auto variant = ublk_runner::own_variant(
      g_variant_new_parsed("{'a': <uint64 5>, 'b': <['x', 'y']>, 'c': <{'k': 'v'}>, 'd': <true>, "
                           "'e': <@as []>}"));
  EXPECT_EQ(to_json(variant.get()).dump(),
            R"({"a":5,"b":["x","y"],"c":{"k":"v"},"d":true,"e":[]})");
}

// --------------------------------------------------------------------- kernel --

TEST(CtlKernel, ReadsVersions) {
  EXPECT_EQ(parse_kernel_version("7.2.12+deb13-cloud-amd64"), (KernelVersion{7, 2}));
  EXPECT_EQ(parse_kernel_version("6.12.0"), (KernelVersion{6, 12}));
  EXPECT_EQ(parse_kernel_version("junk"), KernelVersion{});
  EXPECT_LT((KernelVersion{6, 12}), (KernelVersion{7, 0}));
}

TEST(CtlKernel, HasEachFlagOnceInOrder) {
  uint64_t expected = 1;
  for (const Feature& feature : features()) {
    EXPECT_EQ(feature.flag, expected) << feature.name;
    expected <<= 1;
  }
  EXPECT_EQ(expected, ublk::abi::kFlagIoDescSize << 1);
}

// --------------------------------------------------------------------- doctor --

size_t notes(const std::string& release) {
  size_t count = 0;
  for (const Check& check : check_kernel(release)) count += check.level == Check::Level::kNote;
  return count;
}

TEST(CtlDoctor, KnowsKernels) {
  EXPECT_EQ(check_kernel("6.1.0-12-amd64").front().level, Check::Level::kWarning);
  EXPECT_EQ(check_kernel("6.12.5").front().level, Check::Level::kOk);
  EXPECT_EQ(notes("7.3.4"), 0u);
  EXPECT_EQ(notes("7.2.12"), 1u);
  EXPECT_EQ(notes("6.15.1"), 3u);
  EXPECT_EQ(notes("6.12.5"), 5u);
}

TEST(CtlDoctor, KnowsLimits) {
  EXPECT_EQ(check_io_uring(std::nullopt).level, Check::Level::kOk);
  EXPECT_EQ(check_io_uring(1).level, Check::Level::kOk);
  EXPECT_EQ(check_io_uring(2).level, Check::Level::kWarning);
  EXPECT_EQ(check_memlock("8388608", 0).level, Check::Level::kWarning);
  EXPECT_EQ(check_memlock("8388608", uint64_t{1} << 14).level, Check::Level::kOk);
  EXPECT_EQ(check_memlock("unlimited", 0).level, Check::Level::kOk);
  EXPECT_EQ(check_descriptors("1024", 100).level, Check::Level::kOk);
  EXPECT_EQ(check_descriptors("1024", 900).level, Check::Level::kWarning);
  EXPECT_EQ(check_descriptors("unlimited", 5000).level, Check::Level::kOk);
  EXPECT_EQ(check_namespaces("m", "m", "p", "p").front().level, Check::Level::kOk);
  EXPECT_EQ(check_namespaces("m", "n", "p", "p").front().level, Check::Level::kNote);
  EXPECT_EQ(check_namespaces("m", "m", "p", "q").front().level, Check::Level::kWarning);
}

// ------------------------------------------------------------------------- gc --

using Fate = Verdict::Fate;

// Of a device that nobody wants; each test gives it one thing that keeps it.
DeviceFacts leftover() {
  DeviceFacts facts;
  facts.info.emplace();
  facts.info->state = static_cast<uint16_t>(ublk::abi::DeviceState::kQuiesced);
  facts.info->ublksrv_pid = 123;
  facts.age = std::chrono::hours(1);
  return facts;
}

TEST(CtlGc, TakesWhatNobodyWants) { EXPECT_EQ(judge(leftover()).fate, Fate::kLeftover); }

TEST(CtlGc, KeepsEverythingElse) {
  const auto fate = [](const std::function<void(DeviceFacts&)>& change) {
    DeviceFacts facts = leftover();
    change(facts);
    EXPECT_FALSE(judge(facts).reason.empty());
    return judge(facts).fate;
  };
  EXPECT_EQ(fate([](auto& f) { f.server = "ublk-runner (123)"; }), Fate::kServed);
  EXPECT_EQ(fate([](auto& f) { f.saved = "/run/ublk-runner/a.json"; }), Fate::kSaved);
  EXPECT_EQ(fate([](auto& f) { f.user = "mounted at /mnt"; }), Fate::kKept);
  EXPECT_EQ(fate([](auto& f) { f.doubt = "process 7 can't be looked at"; }), Fate::kKept);
  EXPECT_EQ(fate([](auto& f) { f.pid_lives = true; }), Fate::kKept);
  // Of another PID namespace.
  EXPECT_EQ(
      fate([](auto& f) { f.info->state = static_cast<uint16_t>(ublk::abi::DeviceState::kLive); }),
      Fate::kServed);
  EXPECT_EQ(fate([](auto& f) { f.age = std::chrono::seconds(5); }), Fate::kKept);
  EXPECT_EQ(fate([](auto& f) {
              f.info.reset();
              f.doubt = "GET_DEV_INFO: EINVAL";
            }),
            Fate::kKept);
  EXPECT_EQ(fate([](auto& f) {
              f.pid_lives = true;
              f.info->state = static_cast<uint16_t>(ublk::abi::DeviceState::kLive);
            }),
            Fate::kServed);
}

}  // namespace
}  // namespace ublk_ctl
