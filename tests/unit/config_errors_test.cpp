// SPDX-License-Identifier: MIT
// Whatever else a configuration says is told with its file and line.
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "config_fixture.h"

namespace ublk_runner {
namespace {

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

}  // namespace
}  // namespace ublk_runner
