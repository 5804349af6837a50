// SPDX-License-Identifier: MIT
//
// The options of each handler are those of its man page and of its sample section, and the examples
// of ublk-handler(3) are the files that the tests build.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "handler_host.h"

namespace {

using Lines = std::vector<std::string>;

std::string text_of(const std::string& file) {
  std::ifstream in(std::string(UBLK_SOURCE_DIR) + '/' + file);
  EXPECT_TRUE(in.good()) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

Lines lines_of(const std::string& file) {
  std::istringstream in(text_of(file));
  Lines lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

struct PageOption {
  std::string name;
  std::string text;
};

// The items of the list under OPTIONS.
std::vector<PageOption> page_options(const std::string& handler) {
  std::vector<PageOption> options;
  bool inside = false;
  std::string page = "handlers/" + handler;
  page.append("/ublk-handler-").append(handler).append(".7");
  for (const std::string& line : lines_of(page)) {
    if (line.starts_with(".Sh ")) inside = line == ".Sh OPTIONS";
    if (!inside) continue;
    if (line.starts_with(".It Cm "))
      options.push_back({line.substr(7), ""});
    else if (!options.empty())
      options.back().text += line + '\n';
  }
  return options;
}

class HandlerDocs : public testing::TestWithParam<const char*> {
 protected:
  const std::string name_ = GetParam();
  const test::LoadedHandler library_{name_};
  const std::span<const ublk_option> options_{library_.table().options,
                                              library_.table().nr_options};
};

INSTANTIATE_TEST_SUITE_P(All, HandlerDocs, testing::Values(UBLK_TEST_HANDLERS),
                         [](const auto& name) { return std::string(name.param); });

TEST_P(HandlerDocs, PageListsTheOptionsInTheirOrder) {
  Lines table;
  Lines page;
  for (const ublk_option& option : options_) table.emplace_back(option.name);
  for (const PageOption& option : page_options(name_)) page.push_back(option.name);
  EXPECT_EQ(page, table);
}

TEST_P(HandlerDocs, PageTellsDefaultsAndWhatIsRequired) {
  std::map<std::string, std::string> page;
  for (const PageOption& option : page_options(name_)) page[option.name] = option.text;
  for (const ublk_option& option : options_) {
    const std::string& text = page[option.name];
    const bool required = option.flags & UBLK_OPTION_REQUIRED;
    EXPECT_EQ(text.find("Required.") != std::string::npos, required) << option.name;
    if (option.default_value == nullptr) {
      EXPECT_EQ(text.find("Default:"), std::string::npos) << option.name;
    } else {
      EXPECT_NE(text.find("Default: " + std::string(option.default_value) + "."), std::string::npos)
          << option.name;
    }
  }
}

TEST_P(HandlerDocs, EachOptionIsExplainedInASentence) {
  EXPECT_FALSE(options_.empty());
  for (const ublk_option& option : options_) {
    const std::string help = option.help;
    EXPECT_TRUE(help.ends_with('.')) << option.name;
    EXPECT_TRUE(std::isupper(help.front())) << option.name;
  }
}

// "key = value" is set, "#key = value" shows the default, or an example if there is none.
TEST_P(HandlerDocs, SampleSectionHasEachOption) {
  const std::regex setting("(#?)([a-z_0-9]+) = (.+)");
  std::map<std::string, std::pair<bool, std::string>> sample;
  for (const std::string& line : lines_of("handlers/" + name_ + '/' + name_ + ".conf"))
    if (std::smatch match; std::regex_match(line, match, setting))
      sample[match[2]] = {match.length(1) == 0, match[3]};
  ASSERT_TRUE(sample.contains("handler"));
  EXPECT_EQ(sample["handler"].second, name_);
  EXPECT_EQ(sample.size(), 1 + options_.size());
  for (const ublk_option& option : options_) {
    ASSERT_TRUE(sample.contains(option.name)) << option.name;
    const auto& [set, value] = sample[option.name];
    EXPECT_TRUE(set || !(option.flags & UBLK_OPTION_REQUIRED)) << option.name;
    if (!set && option.default_value != nullptr) {
      EXPECT_EQ(value, option.default_value) << option.name;
    }
  }
}

// What a roff source says for a text without lines that begin with a dot or an apostrophe.
std::string as_roff(const std::string& text) {
  return std::regex_replace(text, std::regex(R"(\\)"), R"(\e)");
}

TEST(HandlerPage, ShowsTheExamplesThatAreBuilt) {
  const std::string page = text_of("man/ublk-handler.3");
  for (const char* example :
       {"tests/external/c/handler_numbers.c", "tests/external/cpp/handler_blocking.cpp",
        "tests/external/cpp/handler_mirror.cpp"})
    EXPECT_NE(page.find(".Bd -literal\n" + as_roff(text_of(example)) + ".Ed\n"), std::string::npos)
        << example << " and the page differ";
}

}  // namespace
