// SPDX-License-Identifier: MIT
//
// Configuration files that are damaged at random: each is taken or told with its line, crashes
// nothing, and nothing gets through that breaks a rule. UBLK_TEST_SEED repeats a failure.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "config_check.h"
#include "sanitizers.h"
#include "test_data.h"

namespace ublk_runner {
namespace {

// AddressSanitizer makes them ten times slower; it has a fuzzer of configurations, too.
constexpr unsigned kFiles = test::kAddressSanitized ? 2'500 : 10'000;

const std::vector<std::string> kOriginals = {
    "[runner]\nio_threads = 2\nspin = 10\nlog_level = debug\nbuffer_memory = 64M\nwatch = false\n"
    "[device disk0]\nhandler = file\npath = /var/tmp/disk0\ncreate = true\nsize = 1G\n"
    "queues = 2\nqueue_depth = 64\nbuffer = user-copy\nrecovery = fail-io\n",
    "# comment\n\n[device a]\nhandler = memory\nsize = 16M\npersist = true\n"
    "[device b]\nhandler = null\nsize = 1T\nread_only = true\nrecovery_timeout = 5\n",
    "[device remote]\nhandler = nbd\nuri = nbd+unix:///disk?socket=/run/nbd.sock\nconnections = 4\n"
    "connect_timeout = 5\nreconnect_timeout = 0\nwrite_through = true\n",
    "[device secret]\nhandler = file\npath = \\sa path\\t\\\\\nio = workers\nworkers = 8\n",
};
const std::vector<std::string> kPieces = {"[",
                                          "]",
                                          "=",
                                          "\n",
                                          "\r\n",
                                          "\\",
                                          "\\s",
                                          "\\x",
                                          "#",
                                          ";",
                                          "\xff",
                                          "\xc3",
                                          "[device ",
                                          "..",
                                          "/",
                                          "-1",
                                          "0x10",
                                          "9999999999999999999999",
                                          "1e9",
                                          "16E",
                                          "[runner]\n",
                                          "true",
                                          "handler = file\n",
                                          "size = ",
                                          "%s%n",
                                          std::string(1, '\0'),
                                          std::string(5000, 'A'),
                                          "\xef\xbb\xbf",
                                          "[device disk0]\n",
                                          " = \n"};

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  std::string next() {
    std::string text = pick(kOriginals);
    for (size_t n = 1 + below(8); n > 0; --n) mutate(text);
    return text;
  }

 private:
  size_t below(size_t limit) { return static_cast<size_t>(random_() % limit); }
  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  void mutate(std::string& text) {
    const size_t at = below(text.size() + 1);
    const size_t length = std::min(below(40), text.size() - at);
    switch (below(6)) {
      case 0:
        text.insert(at, pick(kPieces));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 3:
        text.insert(below(text.size() + 1), text.substr(at, length));
        break;
      case 4:
        text.resize(at);
        break;
      default:
        text += pick(kOriginals);
    }
  }

  std::mt19937_64 random_;
};

uint64_t seed() {
  const char* given = std::getenv("UBLK_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 0) : 20240229;
}

bool is_one_printable_line(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
}

void expect_rules_hold(const CheckedConfig& checked, const std::string& file, size_t lines) {
  std::vector<Finding> findings = checked.findings;
  findings.insert(findings.end(), checked.missing_handlers.begin(), checked.missing_handlers.end());
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.location.file, file);
    EXPECT_LE(finding.location.line, lines);
    EXPECT_FALSE(finding.text.empty());
    EXPECT_TRUE(is_one_printable_line(finding.text)) << finding.text;
  }
  if (!checked.findings.empty()) return;
  std::vector<std::string> names;
  for (const DeviceConfig& device : checked.config.devices) {
    EXPECT_TRUE(is_device_name(device.name)) << device.name;
    EXPECT_TRUE(is_handler_name(device.handler)) << device.handler;
    names.push_back(device.name);
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end()) << "two of a name";
}

TEST(HostileConfig, IsTakenOrToldAndCrashesNothing) {
  const test::TempDir dir;
  const std::string file = dir / "conf";
  Mutator mutator(seed());
  unsigned taken = 0;
  for (unsigned i = 0; i < kFiles; ++i) {
    SCOPED_TRACE("UBLK_TEST_SEED=" + std::to_string(seed()) + ", file " + std::to_string(i));
    const std::string text = mutator.next();
    std::filesystem::remove(file);  // a file system may write back one that is truncated
    std::ofstream(file, std::ios::binary) << text;
    const CheckedConfig checked = check_config(file, UBLK_TEST_HANDLER_DIR);
    const auto lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    expect_rules_hold(checked, file, lines);
    std::vector<Finding> findings;
    load_config(file, findings);
    if (findings.empty())
      EXPECT_NO_THROW(load_config(file));
    else
      EXPECT_THROW(load_config(file), ConfigError);
    taken += checked.findings.empty();
    if (testing::Test::HasFailure()) {
      std::ofstream("hostile.conf", std::ios::binary) << text;
      FAIL() << "the file is left as hostile.conf";
    }
  }
  // Else it would test only one half.
  EXPECT_GT(taken, kFiles / 100);
  EXPECT_LT(taken, kFiles / 2);
}

}  // namespace
}  // namespace ublk_runner
