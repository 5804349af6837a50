// SPDX-License-Identifier: MIT
#include "ctl/command_line.h"

#include <glib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <memory>
#include <utility>

#include "glib_ptr.h"
#include "option_value.h"

namespace ublk_ctl {

namespace {

using ublk_runner::GlibError;

constexpr const char* kExitStatusHelp =
    "Exit status:\n"
    "  0  done\n"
    "  1  wrong command, options or arguments\n"
    "  2  no runner answers\n"
    "  3  refused or failed, in part at least; doctor: a warning\n"
    "  4  not permitted: root is needed\n"
    "  5  there is no such device or handler\n"
    "  6  somebody uses the device\n"
    "\n"
    "See ublkctl(8).\n";

// GOption's entries for options, and what it finds.
class Options {
 public:
  void add(std::span<const OptionSpec> specs) {
    for (const OptionSpec& spec : specs) {
      Found& found = found_.emplace_back(Found{&spec});
      entries_.push_back({spec.name, spec.letter, 0,
                          spec.argument != nullptr ? G_OPTION_ARG_STRING : G_OPTION_ARG_NONE,
                          spec.argument != nullptr ? static_cast<void*>(&found.text) : &found.flag,
                          spec.help, spec.argument});
    }
  }
  ~Options() {
    for (const Found& found : found_) g_free(found.text);
  }

  // Takes the options out of `words` and puts them into `options`.
  void parse(GOptionContext* context, std::vector<std::string>& words,
             std::map<std::string, std::string>& options) {
    entries_.push_back({nullptr, 0, 0, G_OPTION_ARG_NONE, nullptr, nullptr, nullptr});
    g_option_context_add_main_entries(context, entries_.data(), nullptr);
    char** strings = g_new0(char*, words.size() + 2);
    strings[0] = g_strdup("ublkctl");
    for (size_t i = 0; i < words.size(); ++i)
      strings[i + 1] = g_strdup(with_argument(words[i]).c_str());
    GlibError error;
    const bool good = g_option_context_parse_strv(context, &strings, &error) != FALSE;
    words.clear();
    for (char** string = strings + 1; strings[0] != nullptr && *string != nullptr; ++string)
      words.emplace_back(*string);
    g_strfreev(strings);
    if (!good) throw CommandError(kExitUsage, error.text());
    for (const Found& found : found_)
      if (found.flag != FALSE || found.text != nullptr)
        options[found.spec->name] = found.text != nullptr ? found.text : "";
  }

 private:
  // GOption would take the word that follows.
  std::string with_argument(const std::string& word) const {
    for (const Found& found : found_)
      if (found.spec->bare != nullptr && word == std::string("--") + found.spec->name)
        return word + '=' + found.spec->bare;
    return word;
  }

  struct Found {
    const OptionSpec* spec;
    gboolean flag = FALSE;
    char* text = nullptr;
  };
  std::list<Found> found_;  // entries_ point into it
  std::vector<GOptionEntry> entries_;
};

using Context = std::unique_ptr<GOptionContext, decltype(&g_option_context_free)>;

Context make_context(const std::string& usage) {
  return {g_option_context_new(usage.c_str()), g_option_context_free};
}

constexpr OptionSpec kVersion[] = {{"version", nullptr, "Show the version, and end"}};

std::string list_of_commands() {
  std::string text = "Commands:\n";
  for (const Command& command : commands()) {
    std::string line = std::string("  ") + command.name + ' ' + command.arguments;
    line.resize(std::max<size_t>(line.size() + 2, 34), ' ');
    text += line + command.summary + '\n';
  }
  return text + "\n\"ublkctl COMMAND --help\" shows the options of a command.\n";
}

const Command& find_command(const std::string& name) {
  std::vector<std::string_view> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  const std::string_view nearest = ublk_runner::nearest_name(name, names);
  throw CommandError(kExitUsage,
                     "unknown command \"" + name + "\", expected " +
                         (nearest.empty() ? ublk_runner::join_words(names) : std::string(nearest)));
}

// Options before the command.
void parse_start(std::vector<std::string>& words, std::map<std::string, std::string>& options) {
  const Context context = make_context("COMMAND [ARGUMENT…] - control ublk-runner and its devices");
  const std::string summary = list_of_commands();
  g_option_context_set_summary(context.get(), summary.c_str());
  g_option_context_set_description(context.get(), kExitStatusHelp);
  g_option_context_set_strict_posix(context.get(), TRUE);
  Options start;
  start.add(common_options());
  start.add(kVersion);
  start.parse(context.get(), words, options);
  if (options.contains("version")) {
    puts("ublkctl " UBLK_RUNNER_VERSION);
    std::exit(kExitOk);
  }
  if (words.empty()) throw CommandError(kExitUsage, "expected a command");
}

void check_number(const Command& command, size_t number) {
  if (number >= command.min_arguments && number <= command.max_arguments) return;
  throw CommandError(
      kExitUsage, std::string(command.name) + (*command.arguments != '\0'
                                                   ? ": expected " + std::string(command.arguments)
                                                   : ": expected no argument"));
}

}  // namespace

CommandLine parse_command_line(std::vector<std::string> words) {
  CommandLine line{};
  parse_start(words, line.call.options);
  line.command = &find_command(words.front());
  const Command& command = *line.command;
  words.erase(words.begin());

  std::string usage = command.name;
  if (*command.arguments != '\0') usage += std::string(" ") + command.arguments;
  const Context context = make_context(usage + " - " + command.summary);
  Options options;
  options.add(common_options());
  options.add(command.options);
  options.parse(context.get(), words, line.call.options);
  if (const auto end = std::find(words.begin(), words.end(), "--"); end != words.end())
    words.erase(end);
  check_number(command, words.size());
  line.call.arguments = std::move(words);
  return line;
}

}  // namespace ublk_ctl
