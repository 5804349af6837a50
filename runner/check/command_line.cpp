// SPDX-License-Identifier: MIT
#include "command_line.h"

#include <glib.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ublk_check {

namespace {

constexpr const char* kDescription =
    "Writes to what the options name: give it a scratch file or device.\n"
    "\n"
    "Exit status:\n"
    "  0  nothing was found\n"
    "  1  wrong arguments: nothing was checked\n"
    "  2  the handler is wrong somewhere\n"
    "  3  this machine does not allow io_uring: nothing was checked\n"
    "\n"
    "See ublk-handler-check(1).\n";

struct Arguments {
  char* only = nullptr;
  gint64 seed = 1;
  int timeout = 10;
  int limit = 300;
  gboolean no_data = FALSE;
  gboolean json = FALSE;
  gboolean list = FALSE;
  gboolean version = FALSE;

  ~Arguments() { g_free(only); }
};

void parse(int& argc, char**& argv, Arguments& arguments) {
  const GOptionEntry entries[] = {
      {"only", 0, 0, G_OPTION_ARG_STRING, &arguments.only,
       "The checks to run, separated by commas (default: all)", "CHECK"},
      {"list", 0, 0, G_OPTION_ARG_NONE, &arguments.list, "Show what the checks are, and end",
       nullptr},
      {"json", 0, 0, G_OPTION_ARG_NONE, &arguments.json, "Write the report as JSON", nullptr},
      {"seed", 0, 0, G_OPTION_ARG_INT64, &arguments.seed,
       "What random data and places come from (default: 1)", "N"},
      {"no-data", 0, 0, G_OPTION_ARG_NONE, &arguments.no_data,
       "Compare no data: the handler keeps none", nullptr},
      {"timeout", 0, 0, G_OPTION_ARG_INT, &arguments.timeout,
       "When a request counts as never completed (default: 10)", "SECONDS"},
      {"limit", 0, 0, G_OPTION_ARG_INT, &arguments.limit,
       "When a check counts as hanging (default: 300)", "SECONDS"},
      {"version", 0, 0, G_OPTION_ARG_NONE, &arguments.version, "Show the version, and end",
       nullptr},
      {nullptr, 0, 0, G_OPTION_ARG_NONE, nullptr, nullptr, nullptr}};
  const std::unique_ptr<GOptionContext, decltype(&g_option_context_free)> context(
      g_option_context_new("HANDLER.so [KEY=VALUE...] - check a ublk handler"),
      g_option_context_free);
  g_option_context_add_main_entries(context.get(), entries, nullptr);
  g_option_context_set_description(context.get(), kDescription);
  GError* error = nullptr;
  if (g_option_context_parse(context.get(), &argc, &argv, &error) == FALSE) {
    const std::string text = error->message;
    g_error_free(error);
    throw std::invalid_argument(text);
  }
}

const Check& find_check(const std::string& name) {
  const auto all = checks();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Check& check) { return name == check.name; });
  if (found == all.end())
    throw std::invalid_argument("--only: there is no check \"" + name + "\", see --list");
  return *found;
}

std::chrono::seconds seconds_of(const char* option, int value) {
  if (value < 1)
    throw std::invalid_argument(std::string(option) + ": expected a number of seconds from 1 on");
  return std::chrono::seconds(value);
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  Arguments arguments;
  parse(argc, argv, arguments);

  CommandLine line;
  line.seed = static_cast<uint64_t>(arguments.seed);
  line.keeps_data = arguments.no_data == FALSE;
  line.request_limit = seconds_of("--timeout", arguments.timeout);
  line.check_limit = seconds_of("--limit", arguments.limit);
  line.json = arguments.json != FALSE;
  line.list = arguments.list != FALSE;
  line.version = arguments.version != FALSE;
  if (arguments.only == nullptr) {
    for (const Check& check : checks()) line.checks.push_back(&check);
  } else {
    std::istringstream names(arguments.only);
    for (std::string name; std::getline(names, name, ',');)
      line.checks.push_back(&find_check(name));
    if (line.checks.empty())
      throw std::invalid_argument("--only: expected names of checks; --list shows them");
  }
  if (line.list || line.version) return line;
  if (argc < 2) throw std::invalid_argument("expected a file handler_NAME.so");
  line.handler = argv[1];
  for (int i = 2; i < argc; ++i) line.settings.push_back(parse_setting(argv[i]));
  return line;
}

}  // namespace ublk_check
