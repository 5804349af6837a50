// SPDX-License-Identifier: MIT
//
// What ublkctl says of itself is the same everywhere: --help, ublkctl(8) and the bash completion.
#include <ctl/command.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace ublk_ctl {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string help(const std::string& arguments) {
  const std::string line = UBLKCTL_PROGRAM " " + arguments + " --help";
  const std::unique_ptr<FILE, decltype(&pclose)> out(popen(line.c_str(), "r"), pclose);
  std::string text;
  for (int c; (c = fgetc(out.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

std::set<std::string> all_matches(const std::string& text, const std::string& regex) {
  const std::regex compiled(regex, std::regex::multiline);
  std::set<std::string> found;
  for (std::sregex_iterator match(text.begin(), text.end(), compiled), end; match != end; ++match)
    found.insert((*match)[1]);
  return found;
}

std::set<std::string> options_in(const std::string& help_text) {
  return all_matches(help_text, "^ +(?:-., )?--([a-z-]+)");
}

std::string page() { return text_of(UBLK_SOURCE_DIR "/man/ublkctl.8"); }

std::string section(const std::string& title) {
  std::istringstream in(page());
  std::string body;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(".Sh ")) inside = line == ".Sh " + title;
    if (inside) body += line + '\n';
  }
  EXPECT_FALSE(body.empty()) << title;
  return body;
}

// The line and the text of each command in the page.
std::map<std::string, std::string> command_items() {
  std::istringstream in(section("COMMANDS"));
  std::map<std::string, std::string> items;
  std::string name;
  const std::regex item("^\\.It Cm ([a-z]+)");
  for (std::string line; std::getline(in, line);) {
    if (std::smatch match; std::regex_search(line, match, item)) name = match[1];
    if (!name.empty()) items[name] += line + '\n';
  }
  return items;
}

std::set<std::string> command_names() {
  std::set<std::string> names;
  for (const Command& command : commands()) names.insert(command.name);
  return names;
}

std::set<std::string> option_names(const Command& command) {
  std::set<std::string> names;
  for (const OptionSpec& option : command.options) names.insert(option.name);
  return names;
}

TEST(CtlDocs, CommandsAreInHelpAndPage) {
  EXPECT_EQ(all_matches(help(""), "^  ([a-z]+) .*  [A-Z]"), command_names());
  std::set<std::string> in_page;
  for (const auto& [name, text] : command_items()) in_page.insert(name);
  EXPECT_EQ(in_page, command_names());
}

TEST(CtlDocs, OptionsOfEachCommandAreInHelpAndPage) {
  std::map<std::string, std::string> items = command_items();
  for (const Command& command : commands()) {
    std::set<std::string> expected = option_names(command);
    EXPECT_EQ(
        all_matches(items[command.name].substr(0, items[command.name].find('\n')), "Fl -([a-z-]+)"),
        expected)
        << command.name;
    for (const char* common : {"help", "json", "socket", "system"}) expected.insert(common);
    EXPECT_EQ(options_in(help(command.name)), expected) << command.name;
  }
}

TEST(CtlDocs, CommonOptionsAreInHelpAndPage) {
  EXPECT_EQ(all_matches(section("OPTIONS"), "^\\.It Fl (?:. , Fl )?-([a-z-]+)"),
            options_in(help("")));
}

TEST(CtlDocs, ExitStatusIsInHelpAndPage) {
  const std::set<std::string> in_help = all_matches(help(""), "^  ([0-9])  ");
  EXPECT_EQ(all_matches(section("EXIT STATUS"), "^\\.It ([0-9])"), in_help);
  EXPECT_EQ(in_help.size(), size_t{kExitInUse} + 1);
}

TEST(CtlDocs, CompletionHasCommandsAndOptions) {
  const std::string completion = text_of(UBLK_SOURCE_DIR "/conf/bash-completion/ublkctl");
  std::string list;
  for (const Command& command : commands())
    list += (list.empty() ? "" : " ") + std::string(command.name);
  EXPECT_NE(completion.find("local commands='" + list + "'"), std::string::npos) << list;
  for (const OptionSpec& option : common_options())
    EXPECT_NE(completion.find(std::string("--") + option.name), std::string::npos) << option.name;
  for (const Command& command : commands()) {
    const std::set<std::string> lines =
        all_matches(completion, std::string("^ +") + command.name + "\\) options\\+=' (.*)' ;;$");
    const std::string line = lines.empty() ? "" : *lines.begin();
    EXPECT_EQ(all_matches(line, "--([a-z-]+)"), option_names(command)) << command.name;
  }
}

}  // namespace
}  // namespace ublk_ctl
