// SPDX-License-Identifier: MIT
//
// A handler's options: typed by its table, from a device's section.
#include "options.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "option_value.h"

namespace ublk_runner {
namespace {

ublk_option option(const char* name, ublk_option_type type, const char* default_value = nullptr,
                   uint32_t flags = 0) {
  ublk_option option{};
  option.name = name;
  option.type = type;
  option.flags = flags;
  option.default_value = default_value;
  return option;
}

ublk_option number(const char* name, ublk_option_type type, uint64_t minimum, uint64_t maximum) {
  ublk_option result = option(name, type);
  result.minimum = minimum;
  result.maximum = maximum;
  return result;
}

// ------------------------------------------------------------------- values --

struct ValueCase {
  ublk_option_type type;
  const char* text;
  uint64_t expected;  // number, or boolean
};

TEST(OptionValue, GoodTexts) {
  const ValueCase cases[] = {
      {UBLK_OPTION_INTEGER, "0", 0},
      {UBLK_OPTION_INTEGER, "007", 7},
      {UBLK_OPTION_INTEGER, "18446744073709551615", UINT64_MAX},
      {UBLK_OPTION_SIZE, "0", 0},
      {UBLK_OPTION_SIZE, "4096", 4096},
      {UBLK_OPTION_SIZE, "1K", 1ull << 10},
      {UBLK_OPTION_SIZE, "2M", 2ull << 20},
      {UBLK_OPTION_SIZE, "3G", 3ull << 30},
      {UBLK_OPTION_SIZE, "4T", 4ull << 40},
      {UBLK_OPTION_SIZE, "5P", 5ull << 50},
      {UBLK_OPTION_SIZE, "16383P", 16383ull << 50},
      {UBLK_OPTION_SIZE, "18446744073709551615", UINT64_MAX},
      {UBLK_OPTION_BOOL, "true", 1},
      {UBLK_OPTION_BOOL, "yes", 1},
      {UBLK_OPTION_BOOL, "on", 1},
      {UBLK_OPTION_BOOL, "1", 1},
      {UBLK_OPTION_BOOL, "false", 0},
      {UBLK_OPTION_BOOL, "no", 0},
      {UBLK_OPTION_BOOL, "off", 0},
      {UBLK_OPTION_BOOL, "0", 0},
  };
  for (const ValueCase& c : cases) {
    const std::string text = c.text;
    const ublk_option_value value = parse_option_value(option("x", c.type), text);
    EXPECT_EQ(value.is_set, 1u);
    EXPECT_EQ(c.type == UBLK_OPTION_BOOL ? value.boolean : value.number, c.expected) << text;
    EXPECT_STREQ(value.text, c.text);
  }
}

std::string error_of(const ublk_option& option, const std::string& text) {
  try {
    parse_option_value(option, text);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "no error";
}

TEST(OptionValue, BadTexts) {
  const ublk_option size = option("x", UBLK_OPTION_SIZE);
  for (const char* text : {"", "K", "1k", "1KB", "1KiB", "1 K", "1.5K", "-1", "+1", "0x10", "1e3",
                           "16384P", "18446744073709551616", "1E", "KK", "1KK"})
    EXPECT_TRUE(error_of(size, text).starts_with("expected a size in bytes, such as 4096")) << text;
  const ublk_option integer = option("x", UBLK_OPTION_INTEGER);
  for (const char* text : {"", "1K", " 1", "1 ", "-1", "+1", "0x10", "1,000", "one"})
    EXPECT_TRUE(error_of(integer, text).starts_with("expected a number, not ")) << text;
  const ublk_option boolean = option("x", UBLK_OPTION_BOOL);
  for (const char* text : {"", "True", "TRUE", "y", "enable", "2", "-1"})
    EXPECT_TRUE(error_of(boolean, text).starts_with("expected true or false, not ")) << text;
  EXPECT_EQ(error_of(option("x", UBLK_OPTION_STRING), ""), "expected a text, not an empty value");
  EXPECT_EQ(error_of(option("x", UBLK_OPTION_PATH), "a"), "expected an absolute path, not \"a\"");
  EXPECT_EQ(error_of(option("x", UBLK_OPTION_PATH), ""),
            "expected an absolute path, not an empty value");
}

TEST(OptionValue, RangesHoldAtTheirEnds) {
  const ublk_option range = number("x", UBLK_OPTION_INTEGER, 2, 8);
  EXPECT_EQ(error_of(range, "1"), "expected a number from 2 to 8, not \"1\"");
  EXPECT_EQ(parse_option_value(range, "2").number, 2u);
  EXPECT_EQ(parse_option_value(range, "8").number, 8u);
  EXPECT_EQ(error_of(range, "9"), "expected a number from 2 to 8, not \"9\"");

  const ublk_option open = number("x", UBLK_OPTION_SIZE, 4096, 0);
  EXPECT_EQ(error_of(open, "4095"), "expected a size of at least 4K, not \"4095\"");
  EXPECT_EQ(parse_option_value(open, "4K").number, 4096u);
  EXPECT_EQ(parse_option_value(open, "18446744073709551615").number, UINT64_MAX);
}

TEST(OptionValue, ChoicesGiveTheirIndex) {
  ublk_option choice = option("x", UBLK_OPTION_CHOICE);
  choice.choices = "none|writeback|writethrough";
  EXPECT_EQ(parse_option_value(choice, "none").number, 0u);
  EXPECT_EQ(parse_option_value(choice, "writethrough").number, 2u);
  for (const char* text : {"", "write", "None", "none|writeback"})
    EXPECT_TRUE(
        error_of(choice, text).starts_with("expected none, writeback or writethrough, not "))
        << text;
}

TEST(OptionValue, ErrorsEscapeAndCutWhatTheyShow) {
  const ublk_option path = option("x", UBLK_OPTION_PATH);
  EXPECT_EQ(error_of(path, "a\x1b[2J\n"), "expected an absolute path, not \"a\\x1b[2J\\n\"");
  EXPECT_LT(error_of(path, std::string(100000, 'x')).size(), 200u);
}

TEST(OptionValue, SecretsAreNotShown) {
  ublk_option secret = number("x", UBLK_OPTION_INTEGER, 2, 8);
  secret.flags = UBLK_OPTION_SECRET;
  EXPECT_EQ(error_of(secret, "hunter2 # x"), "expected a number from 2 to 8");
  EXPECT_EQ(error_of(secret, "9"), "expected a number from 2 to 8");
}

TEST(FormatSize, IsReadBackAsTheSame) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(1023), "1023");
  EXPECT_EQ(format_size(1536), "1536");
  EXPECT_EQ(format_size(512 << 10), "512K");
  EXPECT_EQ(format_size(1ull << 60), "1024P");
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{3} << 40, UINT64_MAX})
    EXPECT_EQ(parse_option_value(option("x", UBLK_OPTION_SIZE), format_size(bytes)).number, bytes);
}

TEST(NearestName, FindsTypingErrorsOnly) {
  const std::vector<std::string_view> names = {"path", "size", "queue_depth", "queues"};
  EXPECT_EQ(nearest_name("pth", names), "path");
  EXPECT_EQ(nearest_name("szie", names), "size");
  EXPECT_EQ(nearest_name("queue_dept", names), "queue_depth");
  EXPECT_EQ(nearest_name("queue", names), "queues");
  EXPECT_EQ(nearest_name("password", names), "");
  EXPECT_EQ(nearest_name("x", names), "");
  EXPECT_EQ(nearest_name("size", {}), "");
}

// ---------------------------------------------------------- a device's options --

class Options : public testing::Test {
 protected:
  Options() {
    cache_.choices = "none|writeback";
    handler_.name = "test";
    device_.name = "disk0";
    device_.location = {"conf", 10};
  }

  void give(const std::string& key, const std::string& value) {
    device_.options[key] = {value, {"conf", 11 + static_cast<int>(device_.options.size())}};
  }

  OptionValues parse() {
    table_ = {path_, size_, create_, cache_, user_, key_};
    handler_.options = table_.data();
    handler_.nr_options = static_cast<uint32_t>(table_.size());
    return OptionValues::parse(handler_, device_);
  }

  std::string error() {
    try {
      parse();
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  }

  ublk_option path_ = option("path", UBLK_OPTION_PATH, nullptr, UBLK_OPTION_REQUIRED);
  ublk_option size_ = option("size", UBLK_OPTION_SIZE);
  ublk_option create_ = option("create", UBLK_OPTION_BOOL, "yes");
  ublk_option cache_ = option("cache", UBLK_OPTION_CHOICE, "writeback");
  ublk_option user_ = option("user", UBLK_OPTION_STRING);
  ublk_option key_ = option("key", UBLK_OPTION_STRING, nullptr, UBLK_OPTION_SECRET);
  std::vector<ublk_option> table_;
  ublk_handler handler_{};
  DeviceConfig device_;
};

TEST_F(Options, ValuesAreInTheOrderOfTheTable) {
  give("user", "me");
  give("path", "/x");
  const OptionValues values = parse();
  ASSERT_EQ(values.size(), 6u);
  const ublk_option_value* v = values.data();
  EXPECT_STREQ(v[0].text, "/x");
  EXPECT_EQ(v[1].is_set, 0u);  // no default
  EXPECT_EQ(v[1].text, nullptr);
  EXPECT_EQ(v[2].is_set, 1u);  // its default
  EXPECT_EQ(v[2].boolean, 1u);
  EXPECT_STREQ(v[2].text, "yes");
  EXPECT_EQ(v[3].number, 1u);
  EXPECT_STREQ(v[3].text, "writeback");
  EXPECT_STREQ(v[4].text, "me");
}

TEST_F(Options, TextsStayWhereTheyAreWhenMoved) {
  give("path", "/x");  // short enough to be inside of a std::string
  OptionValues first = parse();
  const ublk_option_value* data = first.data();
  const char* text = data[0].text;
  const OptionValues second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.data()[0].text, text);
  EXPECT_STREQ(text, "/x");
}

TEST_F(Options, HandlerWithoutOptions) {
  handler_.nr_options = 0;
  EXPECT_EQ(OptionValues::parse(handler_, device_).size(), 0u);
  give("size", "1M");
  try {
    OptionValues::parse(handler_, device_);
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_STREQ(e.what(), "conf:11: unknown option \"size\" of handler test, it has none");
  }
}

TEST_F(Options, MissingRequiredOneIsToldAtTheDevice) {
  EXPECT_EQ(error(), "conf:10: device \"disk0\" needs \"path\", an option of handler test");
}

TEST_F(Options, UnknownOneNamesTheNearest) {
  give("path", "/x");
  give("sise", "1M");
  EXPECT_EQ(error(), "conf:12: unknown option \"sise\" of handler test, expected size");
}

TEST_F(Options, UnknownOneMayHaveMeantAKeyOfTheRunner) {
  give("path", "/x");
  give("queue_deep", "8");
  EXPECT_EQ(error(),
            "conf:12: unknown option \"queue_deep\" of handler test, expected queue_depth");
}

TEST_F(Options, UnknownOneNamesAllWhenNoneIsNear) {
  give("path", "/x");
  give("colour", "red");
  EXPECT_EQ(error(),
            "conf:12: unknown option \"colour\" of handler test, expected path, size, create, "
            "cache, user or key");
}

TEST_F(Options, EachErrorIsToldAtItsLine) {
  give("path", "x");
  give("size", "big");
  give("create", "maybe");
  give("cache", "all");
  give("user", "");
  EXPECT_EQ(error(),
            "conf:11: path: expected an absolute path, not \"x\"\n"
            "conf:12: size: expected a size in bytes, such as 4096, 512K or 20G, not \"big\"\n"
            "conf:13: create: expected true or false, not \"maybe\"\n"
            "conf:14: cache: expected none or writeback, not \"all\"\n"
            "conf:15: user: expected a text, not an empty value");
}

TEST_F(Options, SecretIsReadAndNotShown) {
  give("path", "/x");
  give("key", "hunter2");
  EXPECT_STREQ(parse().data()[5].text, "hunter2");
  key_.type = UBLK_OPTION_BOOL;
  EXPECT_EQ(error(), "conf:12: key: expected true or false");
}

TEST_F(Options, FindingsAreAddedToOthers) {
  give("path", "x");
  table_ = {path_};
  handler_.options = table_.data();
  handler_.nr_options = 1;
  std::vector<Finding> findings = {{{"other", 1}, "x"}};
  const OptionValues values = OptionValues::parse(handler_, device_, findings);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[1].location.line, 11);
  EXPECT_EQ(values.data()[0].is_set, 0u);
}

}  // namespace
}  // namespace ublk_runner
