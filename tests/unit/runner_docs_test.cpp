// SPDX-License-Identifier: MIT
//
// What the runner says of itself is the same everywhere: --help and ublk-runner(8); the tables of
// keys, ublk-runner.conf(5) and the sample configuration.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <ostream>
#include <regex>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "config_keys.h"
#include "option_value.h"
#include "test_data.h"

namespace ublk_runner {
namespace {

using Lines = std::vector<std::string>;

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string page(const std::string& name) { return text_of(UBLK_SOURCE_DIR "/man/" + name); }

Lines lines_of(const std::string& text) {
  std::istringstream in(text);
  Lines lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string help() {
  const std::unique_ptr<FILE, decltype(&pclose)> out(popen(UBLK_RUNNER_PROGRAM " --help", "r"),
                                                     pclose);
  std::string text;
  for (int c; (c = fgetc(out.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

std::set<std::string> all_matches(const std::string& text, const std::regex& regex) {
  std::set<std::string> found;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match)
    found.insert((*match)[1]);
  return found;
}

// The lines of a section of a page.
std::string section(const std::string& text, const std::string& title) {
  std::string body;
  bool inside = false;
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with(".Sh ")) inside = line == ".Sh " + title;
    if (inside) body += line + '\n';
  }
  EXPECT_FALSE(body.empty()) << title;
  return body;
}

// ---------------------------------------------------------------- ublk-runner(8) --

TEST(RunnerPage, HasTheOptionsOfHelpAndNoOthers) {
  const std::set<std::string> in_help =
      all_matches(help(), std::regex("^ +(?:-., )?--([a-z-]+)", std::regex::multiline));
  const std::set<std::string> in_page =
      all_matches(section(page("ublk-runner.8"), "OPTIONS"),
                  std::regex("^\\.It Fl (?:. , Fl )?-([a-z-]+)", std::regex::multiline));
  EXPECT_EQ(in_help, in_page);
  EXPECT_TRUE(in_help.contains("check-config"));
}

TEST(RunnerPage, HasTheShortOptionsOfHelpAndNoOthers) {
  const std::set<std::string> in_help =
      all_matches(help(), std::regex("^ +-(., --[a-z-]+)", std::regex::multiline));
  std::set<std::string> in_page;
  const std::regex item("^\\.It Fl (.) , Fl -([a-z-]+)");
  for (const std::string& line : lines_of(page("ublk-runner.8")))
    if (std::smatch match; std::regex_search(line, match, item))
      in_page.insert(match.str(1) + ", --" + match.str(2));
  EXPECT_EQ(in_help, in_page);
  EXPECT_FALSE(in_help.empty());
}

TEST(RunnerPage, HasTheExitStatusOfHelp) {
  const std::set<std::string> in_help =
      all_matches(help(), std::regex("^  ([0-9])  ", std::regex::multiline));
  const std::set<std::string> in_page =
      all_matches(section(page("ublk-runner.8"), "EXIT STATUS"),
                  std::regex("^\\.It ([0-9])", std::regex::multiline));
  EXPECT_EQ(in_help, in_page);
  EXPECT_EQ(in_help.size(), 5u);
}

// ----------------------------------------------------------- ublk-runner.conf(5) --

struct Group {
  std::string name;
  std::span<const ublk_option> keys;

  friend std::ostream& operator<<(std::ostream& out, const Group& group) {
    return out << group.name;
  }
};

class KeyDocs : public testing::TestWithParam<Group> {};

INSTANTIATE_TEST_SUITE_P(Groups, KeyDocs,
                         testing::Values(Group{"[runner]", runner_keys()},
                                         Group{"[device NAME]", device_keys()}),
                         [](const auto& group) {
                           return std::string(group.index == 0 ? "runner" : "device");
                         });

std::string range_of(const ublk_option& key) {
  const auto number = [&key](uint64_t value) {
    return key.type == UBLK_OPTION_SIZE ? format_size(value) : std::to_string(value);
  };
  return "from " + number(key.minimum) + " to " + number(key.maximum);
}

TEST_P(KeyDocs, PageHasEachKeyWithDefaultAndRange) {
  const std::string text = section(page("ublk-runner.conf.5"), "GROUP " + GetParam().name);
  Lines names;
  std::map<std::string, std::string> texts;
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with(".It Cm "))
      names.push_back(line.substr(7));
    else if (!names.empty())
      texts[names.back()] += line + '\n';
  }
  Lines table;
  for (const ublk_option& key : GetParam().keys) {
    table.emplace_back(key.name);
    const std::string& said = texts[key.name];
    const auto says = [&said](const std::string& words) {
      return said.find(words) != std::string::npos;
    };
    EXPECT_EQ(says("Required."), (key.flags & UBLK_OPTION_REQUIRED) != 0) << key.name;
    EXPECT_EQ(says("Default:"), key.default_value != nullptr) << key.name;
    if (key.default_value != nullptr && key.type != UBLK_OPTION_PATH) {  // that one is the build's
      EXPECT_TRUE(says("Default: " + std::string(key.default_value) + ".")) << key.name;
    }
    if (key.maximum != 0) {
      EXPECT_TRUE(says(range_of(key))) << key.name;
    }
    if (key.type == UBLK_OPTION_CHOICE) {
      for (const std::string_view word : choice_words(key))
        EXPECT_TRUE(says(std::string(word))) << key.name << ' ' << word;
    }
  }
  EXPECT_EQ(names, table);
}

// The words of the lines ".Cm A , B" between two others.
std::set<std::string> words_between(const std::string& text, const std::string& begin,
                                    const std::string& end) {
  std::set<std::string> words;
  const size_t from = text.find(begin);
  for (const std::string& line : lines_of(text.substr(from, text.find(end, from) - from))) {
    std::istringstream in(line);
    std::string word;
    if (in >> word && word == ".Cm")
      while (in >> word)
        if (word != ",") words.insert(word);
  }
  return words;
}

template <class Target>
std::set<std::string> refused_keys() {
  std::set<std::string> names;
  for (const Key<Target>& key : keys_of<Target>())
    if (key.reload == Reload::kRefuses) names.insert(key.option.name);
  return names;
}

TEST(ConfigPage, TellsWhatAReloadRefuses) {
  const std::string text = page("ublk-runner.conf.5");
  EXPECT_EQ(words_between(text, "those of", "wait for its next start"), refused_keys<Config>());
  EXPECT_EQ(words_between(text, "Keys that the kernel takes only", "are always refused"),
            refused_keys<DeviceConfig>());
}

TEST(HandlerHeader, HasTheNamesThatOptionsCannotHave) {
  const std::string text = text_of(UBLK_SOURCE_DIR "/libublk/include/ublk/handler.h");
  const std::string begin = "are the runner's own and can't be used:";
  const size_t from = text.find(begin) + begin.size();
  std::set<std::string> keys;
  for (const ublk_option& key : device_keys()) keys.insert(key.name);
  EXPECT_EQ(all_matches(text.substr(from, text.find("and all", from) - from), std::regex("(\\w+)")),
            keys);
}

TEST(CtlCompletion, OffersTheKeysOfDevices) {
  const std::string completion = text_of(UBLK_SOURCE_DIR "/conf/bash-completion/ublkctl");
  const size_t begin = completion.find("printf '%s=");
  std::istringstream in(completion.substr(begin, completion.find("\n}", begin) - begin));
  std::set<std::string> offered;
  for (std::string word; in >> word;)
    if (word != "\\" && word.find_first_of("%'") == std::string::npos && word != "printf")
      offered.insert(word);
  std::set<std::string> keys;
  for (const ublk_option& key : device_keys()) keys.insert(key.name);
  EXPECT_EQ(offered, keys);
}

// --------------------------------------------------------------------- the sample --

// The sample with its keys no longer commented out.
std::string active_sample() {
  std::string active;
  for (const std::string& line : lines_of(text_of(UBLK_SAMPLE_CONFIG))) {
    const bool is_text = line.starts_with("# ") || line == "#" || line.empty();
    EXPECT_TRUE(is_text || line.starts_with('#')) << "not commented out: " << line;
    active += is_text ? "\n" : line.substr(1) + '\n';
  }
  return active;
}

constexpr const char* kSampleFile = "/var/lib/prometheus/node-exporter/ublk.prom";

TEST(Sample, HasAllKeysInOrderWithTheirDefaults) {
  Lines expected;
  expected.emplace_back("[runner]");
  for (const ublk_option& key : runner_keys())
    expected.push_back(std::string(key.name) + " = " +
                       (key.default_value == nullptr ? kSampleFile : key.default_value));
  expected.emplace_back("[device NAME]");
  for (const ublk_option& key : device_keys())
    expected.push_back(std::string(key.name) + " = " +
                       (key.default_value == nullptr ? "null" : key.default_value));
  Lines sample;
  for (const std::string& line : lines_of(active_sample()))
    if (!line.empty()) sample.push_back(line);
  EXPECT_EQ(sample, expected);
}

TEST(Sample, TellsTheRangeAboveEachKey) {
  const std::string joined =
      std::regex_replace(text_of(UBLK_SAMPLE_CONFIG), std::regex("\n# "), " ");
  for (const std::span<const ublk_option> keys : {runner_keys(), device_keys()})
    for (const ublk_option& key : keys) {
      if (key.maximum == 0) continue;
      std::string comment;
      for (const std::string& line : lines_of(joined)) {
        if (line.starts_with('#' + std::string(key.name) + " = ")) break;
        comment = line;
      }
      EXPECT_NE(comment.find(range_of(key)), std::string::npos) << key.name << ": " << comment;
    }
}

TEST(Sample, IsRightAsItIsAndWithAllKeysActive) {
  EXPECT_TRUE(load_config(UBLK_SAMPLE_CONFIG).devices.empty());
  const test::TempDir dir;
  std::ofstream(dir / "conf") << active_sample();
  EXPECT_EQ(load_config(dir / "conf").devices.at(0).name, "NAME");
}

}  // namespace
}  // namespace ublk_runner
