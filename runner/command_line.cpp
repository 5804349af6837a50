// SPDX-License-Identifier: MIT
#include "command_line.h"

#include <glib.h>

#include <filesystem>
#include <memory>
#include <stdexcept>

namespace ublk_runner {

namespace {

constexpr const char* kDescription =
    "Exit status:\n"
    "  0  stopped as asked; with --check-config: no errors\n"
    "  1  bad options or configuration: nothing was started\n"
    "  2  no device could be served\n"
    "  3  some devices could not be started; the others were served\n"
    "  4  no device could be served yet: the runner before this one is not quite gone\n"
    "\n"
    "See ublk-runner(8) and ublk-runner.conf(5).\n";

using Text = std::unique_ptr<char, decltype(&g_free)>;

struct Arguments {
  char* config = nullptr;
  char* handler_dir = nullptr;
  char* state_dir = nullptr;
  char* log_level = nullptr;
  gboolean check_config = FALSE;
  gboolean foreground = FALSE;
  gboolean version = FALSE;

  ~Arguments() {
    g_free(config);
    g_free(handler_dir);
    g_free(state_dir);
    g_free(log_level);
  }
};

void parse(int argc, char** argv, Arguments& arguments) {
  const GOptionEntry entries[] = {
      {"config", 'c', 0, G_OPTION_ARG_FILENAME, &arguments.config,
       "Configuration; *.conf of FILE.d are read after it (default: " UBLK_CONFIG_FILE ")", "FILE"},
      {"check-config", 0, 0, G_OPTION_ARG_NONE, &arguments.check_config,
       "Say what is wrong with the configuration, and end", nullptr},
      {"handler-dir", 0, 0, G_OPTION_ARG_FILENAME, &arguments.handler_dir,
       "Where handlers are looked for (default: " UBLK_HANDLER_DIR ")", "DIR"},
      {"foreground", 'f', 0, G_OPTION_ARG_NONE, &arguments.foreground,
       "Stay in the foreground and log to stderr", nullptr},
      {"log-level", 0, 0, G_OPTION_ARG_STRING, &arguments.log_level,
       "The least that is logged: error, warning, info or debug (default: info)", "LEVEL"},
      {"state-dir", 0, 0, G_OPTION_ARG_FILENAME, &arguments.state_dir,
       "What the next runner needs to go on with the devices (default: " UBLK_STATE_DIR ")", "DIR"},
      {"version", 0, 0, G_OPTION_ARG_NONE, &arguments.version, "Show the version, and end",
       nullptr},
      {nullptr, 0, 0, G_OPTION_ARG_NONE, nullptr, nullptr, nullptr}};
  const std::unique_ptr<GOptionContext, decltype(&g_option_context_free)> context(
      g_option_context_new("- serve Linux block devices from handlers"), g_option_context_free);
  g_option_context_add_main_entries(context.get(), entries, nullptr);
  g_option_context_set_description(context.get(), kDescription);

  GError* error = nullptr;
  if (g_option_context_parse(context.get(), &argc, &argv, &error) == FALSE) {
    const std::string text = error->message;
    g_error_free(error);
    throw std::invalid_argument(text);
  }
  if (argc > 1) throw std::invalid_argument("unexpected argument \"" + std::string(argv[1]) + '"');
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  Arguments arguments;
  parse(argc, argv, arguments);

  CommandLine line;
  line.check_config = arguments.check_config != FALSE;
  line.foreground = arguments.foreground != FALSE;
  line.version = arguments.version != FALSE;
  if (arguments.config != nullptr) {
    if (*arguments.config == '\0')
      throw std::invalid_argument("--config: expected a file, not an empty name");
    line.config_file = arguments.config;
  }
  if (arguments.handler_dir != nullptr) {
    if (*arguments.handler_dir == '\0')
      throw std::invalid_argument("--handler-dir: expected a directory, not an empty name");
    line.handler_dir = std::filesystem::absolute(arguments.handler_dir).string();
  }
  if (arguments.state_dir != nullptr) {
    if (*arguments.state_dir == '\0')
      throw std::invalid_argument("--state-dir: expected a directory, not an empty name");
    line.state_dir = std::filesystem::absolute(arguments.state_dir).string();
  }
  if (arguments.log_level != nullptr) {
    line.log_level = parse_log_level(arguments.log_level);
    if (!line.log_level)
      throw std::invalid_argument("--log-level: expected error, warning, info or debug, not \"" +
                                  escape_text(arguments.log_level) + '"');
  }
  return line;
}

}  // namespace ublk_runner
