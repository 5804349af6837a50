// SPDX-License-Identifier: MIT
//
// What a configuration may say, and that everything else is told with its file and line.
#include "config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "test_data.h"

namespace ublk_runner {
namespace {

using Files = std::map<std::string, std::string>;

// A folder with the files of one configuration; "conf" is the first of them.
class ConfigFiles {
 public:
  explicit ConfigFiles(const Files& files) {
    for (const auto& [name, content] : files) write(name, content);
  }

  void write(const std::string& name, const std::string& content) {
    const std::filesystem::path path(dir_ / name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }
  std::string path(const std::string& name = "conf") const { return dir_ / name; }
  const test::TempDir& dir() const { return dir_; }

  Config load() const { return load_config(path()); }

  // One "file:line: text" for each, the files without the folder.
  std::vector<std::string> errors() const {
    std::vector<Finding> findings;
    load_config(path(), findings);
    std::vector<std::string> texts;
    for (Finding finding : findings) {
      erase(finding.location.file);
      erase(finding.text);
      texts.push_back(to_string(finding.location) + ": " + finding.text);
    }
    return texts;
  }

 private:
  void erase(std::string& text) const {
    const std::string prefix = dir_.path() + '/';
    for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
  }

  test::TempDir dir_;
};

// ------------------------------------------------------------ what is right --

TEST(Config, EmptyFileHasTheDefaults) {
  const Config config = ConfigFiles(Files{{"conf", ""}}).load();
  EXPECT_EQ(config.io_threads, 0u);
  EXPECT_EQ(config.spin, 0u);
  EXPECT_EQ(config.handler_dir, UBLK_HANDLER_DIR);
  EXPECT_EQ(config.log_level, LogLevel::kInfo);
  EXPECT_TRUE(config.devices.empty());
}

TEST(Config, ReadsEachKey) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "[runner]\n"
                                           "io_threads = 4\n"
                                           "spin = 50\n"
                                           "handler_dir = /opt/handlers\n"
                                           "log_level = debug\n"
                                           "statistics = on\n"
                                           "statistics_file = /var/ublk.prom\n"
                                           "statistics_interval = 3\n"
                                           "\n"
                                           "[device disk0]\n"
                                           "handler = file\n"
                                           "io_timeout = 30\n"
                                           "io_timeout_action = fail\n"
                                           "queues = 2\n"
                                           "queue_depth = 64\n"
                                           "max_io_size = 1M\n"
                                           "read_only = yes\n"
                                           "path = /srv/disk0.img\n"}})
                            .load();
  EXPECT_EQ(config.io_threads, 4u);
  EXPECT_EQ(config.spin, 50u);
  EXPECT_EQ(config.handler_dir, "/opt/handlers");
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
  EXPECT_TRUE(config.statistics);
  EXPECT_EQ(config.statistics_file, "/var/ublk.prom");
  EXPECT_EQ(config.statistics_interval, std::chrono::seconds(3));
  ASSERT_EQ(config.devices.size(), 1u);
  const DeviceConfig& device = config.devices[0];
  EXPECT_EQ(device.name, "disk0");
  EXPECT_EQ(device.handler, "file");
  EXPECT_EQ(device.io_timeout, std::chrono::seconds(30));
  EXPECT_EQ(device.io_timeout_action, TimeoutAction::kFail);
  EXPECT_EQ(device.queues, 2u);
  EXPECT_EQ(device.queue_depth, 64u);
  EXPECT_EQ(device.max_io_size, 1u << 20);
  EXPECT_TRUE(device.read_only);
  EXPECT_EQ(device.location.line, 10);
  EXPECT_EQ(device.handler_location.line, 11);
  ASSERT_EQ(device.options.size(), 1u);
  EXPECT_EQ(device.options.at("path").value, "/srv/disk0.img");
  EXPECT_EQ(device.options.at("path").location.line, 18);
}

// The structures are also filled in by hand, and then must mean the same.
TEST(Config, StructuresHaveTheDefaultsOfTheTables) {
  const Config read = ConfigFiles(Files{{"conf", "[device a]\nhandler = null\n"}}).load();
  const DeviceConfig by_hand;
  const DeviceConfig& device = read.devices.at(0);
  for (const ublk_option& key : device_keys()) {
    if (key.default_value == nullptr) continue;
    const ConfigFiles explicit_default(
        Files{{"conf", "[device a]\nhandler = null\n" + std::string(key.name) + " = " +
                           key.default_value + '\n'}});
    const DeviceConfig said = explicit_default.load().devices.at(0);
    EXPECT_EQ(said.queues, device.queues) << key.name;
    EXPECT_EQ(said.queue_depth, device.queue_depth) << key.name;
    EXPECT_EQ(said.max_io_size, device.max_io_size) << key.name;
    EXPECT_EQ(said.read_only, device.read_only) << key.name;
    EXPECT_EQ(said.io_timeout, device.io_timeout) << key.name;
    EXPECT_EQ(said.io_timeout_action, device.io_timeout_action) << key.name;
  }
  EXPECT_EQ(device.queues, by_hand.queues);
  EXPECT_EQ(device.queue_depth, by_hand.queue_depth);
  EXPECT_EQ(device.max_io_size, by_hand.max_io_size);
  EXPECT_EQ(device.read_only, by_hand.read_only);

  std::string all = "[runner]\n";
  for (const ublk_option& key : runner_keys())
    if (key.default_value != nullptr)
      all += std::string(key.name) + " = " + key.default_value + '\n';
  const Config said = ConfigFiles(Files{{"conf", all}}).load();
  EXPECT_EQ(said.io_threads, Config().io_threads);
  EXPECT_EQ(said.spin, Config().spin);
  EXPECT_EQ(said.handler_dir, Config().handler_dir);
  EXPECT_EQ(said.log_level, Config().log_level);
  EXPECT_EQ(said.statistics, Config().statistics);
  EXPECT_EQ(said.statistics_interval, Config().statistics_interval);
}

TEST(Config, SpacesCommentsAndLineEndsDoNotCount) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "# comment\r\n"
                                           "   # indented\n"
                                           "\n"
                                           "  [ device   a ]  \r\n"
                                           "\thandler=null \t\r\n"
                                           "  size\t =\t 1G"}})
                            .load();
  ASSERT_EQ(config.devices.size(), 1u);
  EXPECT_EQ(config.devices[0].name, "a");
  EXPECT_EQ(config.devices[0].handler, "null");
  EXPECT_EQ(config.devices[0].options.at("size").value, "1G");
}

TEST(Config, ValuesKeepWhatIsInThem) {
  const Config config = ConfigFiles(Files{{"conf",
                                           "[device a]\n"
                                           "handler = null\n"
                                           "plain = a b = c [d] # e ; \"f\"\n"
                                           "escaped = \\sx\\ty\\\\z\\n\\s\n"
                                           "utf8 = d\xc3\xbcrer\n"
                                           "empty =\n"}})
                            .load();
  const auto& options = config.devices.at(0).options;
  EXPECT_EQ(options.at("plain").value, "a b = c [d] # e ; \"f\"");
  EXPECT_EQ(options.at("escaped").value, " x\ty\\z\n ");
  EXPECT_EQ(options.at("utf8").value, "d\xc3\xbcrer");
  EXPECT_EQ(options.at("empty").value, "");
}

TEST(Config, DropInsAreReadInTheOrderOfTheirNames) {
  const Config config = ConfigFiles(Files{{"conf", "[device main]\nhandler = null\n"},
                                          {"conf.d/20.conf", "[device late]\nhandler = null\n"},
                                          {"conf.d/10.conf",
                                           "[runner]\nio_threads = 3\n"
                                           "[device early]\nhandler = null\n"},
                                          {"conf.d/B.conf", "[device upper]\nhandler = null\n"},
                                          {"conf.d/a.conf", "[device lower]\nhandler = null\n"}})
                            .load();
  std::vector<std::string> names;
  for (const DeviceConfig& device : config.devices) names.push_back(device.name);
  EXPECT_EQ(names, (std::vector<std::string>{"main", "early", "late", "upper", "lower"}));
  EXPECT_EQ(config.io_threads, 3u);
}

TEST(Config, OtherFilesOfTheFolderAreLeftAlone) {
  const Config config = ConfigFiles(Files{{"conf", ""},
                                          {"conf.d/README", "no configuration"},
                                          {"conf.d/x.conf~", "no configuration"},
                                          {"conf.d/x.conf.bak", "no configuration"},
                                          {"conf.d/.hidden.conf", "no configuration"}})
                            .load();
  EXPECT_TRUE(config.devices.empty());
}

TEST(Config, FilesMayShareTheRunnerGroup) {
  const Config config = ConfigFiles(Files{{"conf", "[runner]\nio_threads = 3\n"},
                                          {"conf.d/x.conf", "[runner]\nlog_level = error\n"}})
                            .load();
  EXPECT_EQ(config.io_threads, 3u);
  EXPECT_EQ(config.log_level, LogLevel::kError);
}

TEST(Config, LongestNamesAreTaken) {
  const std::string name(64, 'n');
  const Config config =
      ConfigFiles(Files{{"conf", "[device " + name + "]\nhandler = " + name + "\n"}}).load();
  EXPECT_EQ(config.devices.at(0).name, name);
  EXPECT_EQ(config.devices.at(0).handler, name);
}

// ------------------------------------------------------------ what is wrong --

struct BadConfig {
  const char* name;
  Files files;
  std::vector<std::string> errors;

  friend std::ostream& operator<<(std::ostream& out, const BadConfig& bad) {
    return out << bad.name;
  }
};

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsToldWithFileAndLine) {
  EXPECT_EQ(ConfigFiles(GetParam().files).errors(), GetParam().errors);
}

Files device(const std::string& lines) {
  return {{"conf", "[device a]\nhandler = null\n" + lines}};
}
Files runner(const std::string& lines) { return {{"conf", "[runner]\n" + lines}}; }

const char kLine[] = "expected KEY = VALUE, [GROUP] or # COMMENT";
const char kKey[] =
    "expected a key of lower-case letters, digits and '_', beginning with a letter, before the "
    "'='";
const char kGroup[] = "expected [runner] or [device NAME], and nothing else on the line";
const char kUnknownGroup[] = "unknown group, expected [runner] or [device NAME]";
const char kDeviceName[] =
    "expected [device NAME] with a name of at most 64 letters, digits, '.', '_' and '-', and "
    "neither \".\" nor \"..\"";
const char kHandlerName[] =
    "handler: expected the name of a handler: at most 64 lower-case letters, digits, '_' and "
    "'-', beginning with a letter";
const char kEscape[] =
    "the value of \"x\" has a bad escape sequence, expected \\s, \\n, \\t, \\r or \\\\ after the "
    "backslash";
const char kThreads[] = "io_threads: expected a number from 0 to 256, not ";
const char kQueues[] = "queues: expected a number from 0 to 4096, not ";
const char kDepth[] = "queue_depth: expected a number from 1 to 4096, not ";
const char kSize[] =
    "max_io_size: expected a size from 4K to 32M in bytes, such as 4096, 512K or 20G, not ";
const char kSizeRange[] = "max_io_size: expected a size from 4K to 32M, not ";

std::string at(const std::string& place, const std::string& text, const std::string& value = "") {
  return place + ": " + text + (value.empty() ? "" : '"' + value + '"');
}

const BadConfig kBadLines[] = {
    {"no_key_file", {{"conf", "hello\n"}}, {at("conf:1", kLine)}},
    {"line_without_equals", device("x\n"), {at("conf:3", kLine)}},
    {"last_line_without_newline", device("x"), {at("conf:3", kLine)}},
    {"no_key", device("= 1\n"), {at("conf:3", kKey)}},
    {"upper_case_key", device("Queues = 1\n"), {at("conf:3", kKey)}},
    {"key_with_space", device("queue depth = 1\n"), {at("conf:3", kKey)}},
    {"key_with_dash", device("queue-depth = 1\n"), {at("conf:3", kKey)}},
    {"key_begins_with_digit", device("9x = 1\n"), {at("conf:3", kKey)}},
    {"localized_key", device("size[de] = 1\n"), {at("conf:3", kKey)}},
    {"key_before_a_group",
     {{"conf", "queues = 1\n[runner]\n"}},
     {at("conf:1", "key \"queues\" is in no group; expected [runner] or [device NAME] before it")}},
    {"open_group", {{"conf", "[runner\n"}}, {at("conf:1", kGroup)}},
    {"empty_group", {{"conf", "[]\n"}}, {at("conf:1", kGroup)}},
    {"blank_group", {{"conf", "[  ]\n"}}, {at("conf:1", kGroup)}},
    {"bracket_alone", {{"conf", "["}}, {at("conf:1", kGroup)}},
    {"brackets_in_group", {{"conf", "[a[b]]\n"}}, {at("conf:1", kGroup)}},
    {"text_after_group", {{"conf", "[runner] # x\n"}}, {at("conf:1", kGroup)}},
    {"keys_of_a_bad_group_are_its_fault",
     {{"conf", "[runner\nio_threads = x\nnonsense\n"}},
     {at("conf:1", kGroup), at("conf:3", kLine)}},
    {"not_utf8", device("x = \xff\n"), {at("conf:3", "is not UTF-8")}},
    {"not_utf8_comment", {{"conf", "\n# d\xfcrer\n"}}, {at("conf:2", "is not UTF-8")}},
    {"nul", device(std::string("x = a\0b\n", 8)), {at("conf:3", "is not UTF-8")}},
    {"utf16", {{"conf", std::string("\xff\xfe[\0r\0", 6)}}, {at("conf:1", "is not UTF-8")}},
    {"byte_order_mark",
     {{"conf", "\xef\xbb\xbf[runner]\n"}},
     {at("conf:1", "begins with a byte order mark, expected UTF-8 without one")}},
    {"bad_escape", device("x = a\\qb\n"), {at("conf:3", kEscape)}},
    {"escape_at_the_end", device("x = a\\\n"), {at("conf:3", kEscape)}},
    {"bad_escape_is_not_missing",
     {{"conf", "[device a]\nhandler = nu\\ll\n"}},
     {at("conf:2",
         "the value of \"handler\" has a bad escape sequence, expected \\s, \\n, \\t, \\r or \\\\ "
         "after the backslash")}},
};

const BadConfig kBadKeys[] = {
    {"unknown_group", {{"conf", "[daemon]\n"}}, {at("conf:1", kUnknownGroup)}},
    {"group_case", {{"conf", "[Runner]\n"}}, {at("conf:1", kUnknownGroup)}},
    {"runner_with_a_name", {{"conf", "[runner x]\n"}}, {at("conf:1", kUnknownGroup)}},
    {"devices", {{"conf", "[devices a]\n"}}, {at("conf:1", kUnknownGroup)}},
    {"unknown_runner_key",
     runner("colour = red\n"),
     {at("conf:2",
         "unknown key \"colour\" of [runner], expected io_threads, spin, handler_dir, "
         "log_level, buffer_memory, watch, changed_devices, lock_memory, statistics, "
         "statistics_file or statistics_interval")}},
    {"near_runner_key",
     runner("io_thread = 1\n"),
     {at("conf:2", "unknown key \"io_thread\" of [runner], expected io_threads")}},
    {"key_twice",
     runner("io_threads = 1\n\nio_threads = 1\n"),
     {at("conf:4", "key \"io_threads\" is given twice, first at line 2")}},
    {"option_twice",
     device("size = 1M\nsize = 1M\n"),
     {at("conf:4", "key \"size\" is given twice, first at line 3")}},
    {"runner_twice",
     {{"conf", "[runner]\n[runner]\n"}},
     {at("conf:2", "[runner] is given twice in this file")}},
    {"runner_key_in_two_files",
     {{"conf", "[runner]\nio_threads = 1\n"}, {"conf.d/x.conf", "\n[runner]\nio_threads = 1\n"}},
     {at("conf.d/x.conf:3", "key \"io_threads\" is given twice, first at conf:2")}},
    {"device_twice",
     device("[device a]\nhandler = null\n"),
     {at("conf:3", "device \"a\" is given twice, first at conf:1")}},
    {"device_in_two_files",
     {{"conf", "[device a]\nhandler = null\n"},
      {"conf.d/x.conf", "\n\n[device  a]\nhandler = file\n"}},
     {at("conf.d/x.conf:3", "device \"a\" is given twice, first at conf:1")}},
    {"device_in_two_drop_ins",
     {{"conf", ""},
      {"conf.d/1.conf", "[device a]\nhandler = null\n"},
      {"conf.d/2.conf", "[device a]\nhandler = null\n"}},
     {at("conf.d/2.conf:1", "device \"a\" is given twice, first at conf.d/1.conf:1")}},
    {"no_handler",
     {{"conf", "\n[device a]\nsize = 1\n"}},
     {at("conf:2", "[device a] has no \"handler\"")}},
    {"empty_handler",
     {{"conf", "[device a]\nhandler =\n"}},
     {at("conf:2", "handler: expected a text, not an empty value")}},
    {"handler_path", {{"conf", "[device a]\nhandler = ../x\n"}}, {at("conf:2", kHandlerName)}},
    {"handler_case", {{"conf", "[device a]\nhandler = Null\n"}}, {at("conf:2", kHandlerName)}},
    {"handler_digit", {{"conf", "[device a]\nhandler = 9p\n"}}, {at("conf:2", kHandlerName)}},
    {"handler_length",
     {{"conf", "[device a]\nhandler = " + std::string(65, 'n') + '\n'}},
     {at("conf:2", kHandlerName)}},
};

Files named(const std::string& name) {
  return {{"conf", "[device" + name + "]\nhandler = null\n"}};
}

const BadConfig kBadNames[] = {
    {"no_name", named(""), {at("conf:1", kDeviceName)}},
    {"slash", named(" a/b"), {at("conf:1", kDeviceName)}},
    {"dot", named(" ."), {at("conf:1", kDeviceName)}},
    {"dot_dot", named(" .."), {at("conf:1", kDeviceName)}},
    {"space", named(" a b"), {at("conf:1", kDeviceName)}},
    {"control_character", named(" a\x1b"), {at("conf:1", kDeviceName)}},
    {"not_ascii", named(" d\xc3\xbcrer"), {at("conf:1", kDeviceName)}},
    {"hash", named(" #a"), {at("conf:1", kDeviceName)}},
    {"too_long", named(' ' + std::string(65, 'n')), {at("conf:1", kDeviceName)}},
};

const BadConfig kBadValues[] = {
    {"threads_word", runner("io_threads = many\n"), {at("conf:2", kThreads, "many")}},
    {"threads_negative", runner("io_threads = -1\n"), {at("conf:2", kThreads, "-1")}},
    {"threads_plus", runner("io_threads = +1\n"), {at("conf:2", kThreads, "+1")}},
    {"threads_hex", runner("io_threads = 0x4\n"), {at("conf:2", kThreads, "0x4")}},
    {"threads_fraction", runner("io_threads = 1.5\n"), {at("conf:2", kThreads, "1.5")}},
    {"threads_suffix", runner("io_threads = 1K\n"), {at("conf:2", kThreads, "1K")}},
    {"threads_too_many", runner("io_threads = 257\n"), {at("conf:2", kThreads, "257")}},
    {"spin_too_long",
     runner("spin = 10001\n"),
     {at("conf:2", "spin: expected a number from 0 to 10000, not ", "10001")}},
    {"spin_unit",
     runner("spin = 50us\n"),
     {at("conf:2", "spin: expected a number from 0 to 10000, not ", "50us")}},
    {"threads_overflow",
     runner("io_threads = 18446744073709551616\n"),
     {at("conf:2", kThreads, "18446744073709551616")}},
    {"threads_empty",
     runner("io_threads =\n"),
     {at("conf:2", "io_threads: expected a number from 0 to 256, not an empty value")}},
    {"comment_in_value",
     runner("io_threads = 4 # four\n"),
     {at("conf:2", kThreads, "4 # four") + " (a comment needs a line of its own)"}},
    {"two_numbers", runner("io_threads = 1 2\n"), {at("conf:2", kThreads, "1 2")}},
    {"escape_in_value", runner("io_threads = 1\\n\n"), {at("conf:2", kThreads, "1\\n")}},
    {"handler_dir_relative",
     runner("handler_dir = lib\n"),
     {at("conf:2", "handler_dir: expected an absolute path, not ", "lib")}},
    {"handler_dir_too_long",
     runner("handler_dir = /" + std::string(5000, 'x') + '\n'),
     {at("conf:2", "handler_dir: expected a path of less than 4096 bytes, not ",
         '/' + std::string(79, 'x') + "...")}},
    {"log_level",
     runner("log_level = verbose\n"),
     {at("conf:2", "log_level: expected error, warning, info or debug, not ", "verbose")}},
    {"log_level_case",
     runner("log_level = Info\n"),
     {at("conf:2", "log_level: expected error, warning, info or debug, not ", "Info")}},
    {"queues_negative", device("queues = -1\n"), {at("conf:3", kQueues, "-1")}},
    {"queues_too_many", device("queues = 4097\n"), {at("conf:3", kQueues, "4097")}},
    {"depth_zero", device("queue_depth = 0\n"), {at("conf:3", kDepth, "0")}},
    {"depth_too_large", device("queue_depth = 4097\n"), {at("conf:3", kDepth, "4097")}},
    {"size_word", device("max_io_size = big\n"), {at("conf:3", kSize, "big")}},
    {"size_suffix_alone", device("max_io_size = K\n"), {at("conf:3", kSize, "K")}},
    {"size_kib", device("max_io_size = 512KiB\n"), {at("conf:3", kSize, "512KiB")}},
    {"size_kb", device("max_io_size = 512KB\n"), {at("conf:3", kSize, "512KB")}},
    {"size_lower_case", device("max_io_size = 512k\n"), {at("conf:3", kSize, "512k")}},
    {"size_space", device("max_io_size = 512 K\n"), {at("conf:3", kSize, "512 K")}},
    {"size_fraction", device("max_io_size = 1.5M\n"), {at("conf:3", kSize, "1.5M")}},
    {"size_negative", device("max_io_size = -4K\n"), {at("conf:3", kSize, "-4K")}},
    {"size_overflow", device("max_io_size = 99999P\n"), {at("conf:3", kSize, "99999P")}},
    {"size_too_small", device("max_io_size = 512\n"), {at("conf:3", kSizeRange, "512")}},
    {"size_too_large", device("max_io_size = 33M\n"), {at("conf:3", kSizeRange, "33M")}},
    {"size_no_multiple",
     device("max_io_size = 5000\n"),
     {at("conf:3", "max_io_size: expected a multiple of 4K, not ", "5000")}},
    {"read_only",
     device("read_only = maybe\n"),
     {at("conf:3", "read_only: expected true or false, not ", "maybe")}},
    {"read_only_case",
     device("read_only = TRUE\n"),
     {at("conf:3", "read_only: expected true or false, not ", "TRUE")}},
    {"read_only_number",
     device("read_only = 2\n"),
     {at("conf:3", "read_only: expected true or false, not ", "2")}},
};

std::string name_of(const testing::TestParamInfo<BadConfig>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Line, BadConfigTest, testing::ValuesIn(kBadLines), name_of);
INSTANTIATE_TEST_SUITE_P(Key, BadConfigTest, testing::ValuesIn(kBadKeys), name_of);
INSTANTIATE_TEST_SUITE_P(Name, BadConfigTest, testing::ValuesIn(kBadNames), name_of);
INSTANTIATE_TEST_SUITE_P(Value, BadConfigTest, testing::ValuesIn(kBadValues), name_of);

TEST(BadConfigs, AllErrorsAreFoundAndInOrder) {
  const ConfigFiles files(Files{{"conf",
                                 "[runner]\n"
                                 "io_threads = x\n"
                                 "junk\n"
                                 "[device a]\n"
                                 "queues = -1\n"
                                 "read_only = x\n"
                                 "[device b]\n"
                                 "handler = null\n"
                                 "[nonsense]\n"},
                                {"conf.d/x.conf", "junk\n[device b]\nqueue_depth = x\n"}});
  EXPECT_EQ(files.errors(),
            (std::vector<std::string>{
                at("conf:2", kThreads, "x"), at("conf:3", kLine),
                at("conf:4", "[device a] has no \"handler\""), at("conf:5", kQueues, "-1"),
                at("conf:6", "read_only: expected true or false, not ", "x"),
                at("conf:9", kUnknownGroup), at("conf.d/x.conf:1", kLine),
                at("conf.d/x.conf:2", "device \"b\" is given twice, first at conf:7"),
                at("conf.d/x.conf:2", "[device b] has no \"handler\""),
                at("conf.d/x.conf:3", kDepth, "x")}));
}

TEST(BadConfigs, ErrorHasOneLineForEach) {
  const ConfigFiles files(Files{{"conf", "junk\njunk\n"}});
  try {
    files.load();
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_EQ(std::string(e.what()),
              files.path() + ":1: " + kLine + '\n' + files.path() + ":2: " + kLine);
    EXPECT_EQ(e.findings().size(), 2u);
  }
}

TEST(BadConfigs, DevicesWithAHandlerAreKeptForFurtherChecks) {
  const ConfigFiles files(Files{{"conf",
                                 "[device bad]\nhandler = null\nqueues = 0\n"
                                 "[device none]\nhandler = /\n"
                                 "[device good]\nhandler = null\n"}});
  std::vector<Finding> findings;
  const Config config = load_config(files.path(), findings);
  ASSERT_EQ(config.devices.size(), 2u);
  EXPECT_EQ(config.devices[0].name, "bad");
  EXPECT_EQ(config.devices[1].name, "good");
}

// A line that is none may be the rest of a secret.
TEST(BadConfigs, BadLinesAreNotShown) {
  const ConfigFiles files(device("password\n= hunter2\nk\\ey = hunter2\nsecret = hunter2\\x\n"));
  EXPECT_EQ(files.errors().size(), 4u);
  for (const std::string& error : files.errors())
    EXPECT_EQ(error.find("hunter2"), std::string::npos) << error;
}

// -------------------------------------------------------- files and folders --

TEST(ConfigFile, MissingOneIsAnError) {
  EXPECT_EQ(ConfigFiles(Files{}).errors(),
            std::vector<std::string>{"conf: cannot be read: No such file or directory"});
}

TEST(ConfigFile, DirectoryIsAnError) {
  const ConfigFiles files(Files{{"conf/x", ""}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{"conf: cannot be read: Is a directory"});
}

TEST(ConfigFile, FifoIsAnErrorAndNotWaitedFor) {
  const ConfigFiles files(Files{});
  ASSERT_EQ(mkfifo(files.path().c_str(), 0600), 0);
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf: cannot be read: it is no regular file"});
}

TEST(ConfigFile, DropInThatIsADirectoryIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d/x.conf/y", ""}});
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf.d/x.conf: cannot be read: Is a directory"});
}

TEST(ConfigFile, DropInThatPointsNowhereIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d/README", ""}});
  std::filesystem::create_symlink("gone", files.path("conf.d/x.conf"));
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf.d/x.conf: cannot be read: No such file or directory"});
}

TEST(ConfigFile, FolderThatIsAFileIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d", ""}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{"conf.d: cannot be read: Not a directory"});
}

TEST(ConfigFile, UnreadableOneIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}});
  ASSERT_EQ(chmod(files.path().c_str(), 0), 0);
  ASSERT_EQ(chmod(files.dir().path().c_str(), 0755), 0);
  constexpr uid_t kNobody = 65534;
  const uid_t user = geteuid();
  if (user == 0) {
    ASSERT_EQ(seteuid(kNobody), 0);  // root reads everything
  }
  const std::vector<std::string> errors = files.errors();
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_EQ(errors, std::vector<std::string>{"conf: cannot be read: Permission denied"});
}

TEST(ConfigFile, LargeOneIsRead) {
  std::string content;
  for (int i = 0; i < 20000; ++i)
    content += "[device d" + std::to_string(i) + "]\nhandler = null\n# padding, padding\n";
  content += "junk\n";
  const ConfigFiles files(Files{{"conf", content}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{at("conf:60001", kLine)});
  std::vector<Finding> findings;
  EXPECT_EQ(load_config(files.path(), findings).devices.size(), 20000u);
}

}  // namespace
}  // namespace ublk_runner
