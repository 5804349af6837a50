// SPDX-License-Identifier: MIT
//
// What handlers say of themselves. They are loaded here, so it needs no runner.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>

#include "config.h"
#include "ctl/command.h"
#include "ctl/output.h"
#include "handler_library.h"
#include "option_value.h"

namespace ublk_ctl {

namespace {

using ublk_runner::format_size;
using ublk_runner::HandlerLibrary;

const char* type_name(uint32_t type) {
  switch (type) {
    case UBLK_OPTION_STRING:
      return "string";
    case UBLK_OPTION_PATH:
      return "path";
    case UBLK_OPTION_BOOL:
      return "bool";
    case UBLK_OPTION_INTEGER:
      return "integer";
    case UBLK_OPTION_SIZE:
      return "size";
    default:
      return "choice";
  }
}

std::string range_of(const ublk_option& option) {
  if (option.type == UBLK_OPTION_CHOICE) return option.choices;
  if (option.type != UBLK_OPTION_INTEGER && option.type != UBLK_OPTION_SIZE) return "";
  const auto number = [&option](uint64_t value) {
    return option.type == UBLK_OPTION_SIZE ? format_size(value) : std::to_string(value);
  };
  if (option.maximum != 0) return number(option.minimum) + " to " + number(option.maximum);
  return option.minimum != 0 ? number(option.minimum) + " or more" : "";
}

std::span<const ublk_option> options_of(const HandlerLibrary& library) {
  return {library.handler().options, library.handler().nr_options};
}

Json to_json(const HandlerLibrary& library) {
  Json options = Json::array();
  for (const ublk_option& option : options_of(library)) {
    Json json = {{"name", option.name},
                 {"type", type_name(option.type)},
                 {"required", (option.flags & UBLK_OPTION_REQUIRED) != 0},
                 {"secret", (option.flags & UBLK_OPTION_SECRET) != 0},
                 {"default", nullptr}};
    if (option.default_value != nullptr) json["default"] = option.default_value;
    if (option.type == UBLK_OPTION_INTEGER || option.type == UBLK_OPTION_SIZE) {
      json["minimum"] = option.minimum;
      if (option.maximum != 0) json["maximum"] = option.maximum;
    }
    if (option.type == UBLK_OPTION_CHOICE) json["choices"] = ublk_runner::choice_words(option);
    json["help"] = option.help;
    options.push_back(std::move(json));
  }
  return {{"name", library.handler().name},
          {"path", library.path()},
          {"summary", library.handler().summary},
          {"options", std::move(options)}};
}

// Where the runner looks, unless it is told otherwise.
std::string default_dir() {
  std::vector<ublk_runner::Finding> findings;
  return ublk_runner::load_config(UBLK_CONFIG_FILE, findings).handler_dir;
}

ExitStatus list(const std::string& dir, bool json) {
  std::error_code error;
  const std::vector<std::string> names = ublk_runner::handler_names(dir, error);
  if (error) throw CommandError(kExitNotFound, dir + ": " + error.message());
  std::vector<Row> rows = {{"HANDLER", "SUMMARY"}};
  Json all = Json::array();
  ExitStatus status = kExitOk;
  for (const std::string& name : names) {
    try {
      const auto library = HandlerLibrary::load(dir, name);
      rows.push_back({name, library->handler().summary});
      all.push_back(to_json(*library));
    } catch (const std::runtime_error& e) {
      fprintf(stderr, "ublkctl: %s\n", e.what());
      status = kExitFailed;
    }
  }
  if (json)
    print_json(all);
  else
    print_text(format_table(rows));
  return status;
}

ExitStatus show(const std::string& dir, const std::string& name, bool json) {
  std::error_code error;
  if (!std::filesystem::exists(dir + "/handler_" + name + ".so", error))
    throw CommandError(kExitNotFound, "there is no handler \"" + name + "\" in " + dir);
  const auto library = HandlerLibrary::load(dir, name);
  if (json) {
    print_json(to_json(*library));
    return kExitOk;
  }
  print_text(name + ": " + library->handler().summary + '\n');
  std::vector<Row> rows = {{"OPTION", "TYPE", "DEFAULT", "VALUES", "HELP"}};
  for (const ublk_option& option : options_of(*library)) {
    std::string help = option.help;
    if ((option.flags & UBLK_OPTION_REQUIRED) != 0) help += " Required.";
    if ((option.flags & UBLK_OPTION_SECRET) != 0) help += " Secret.";
    rows.push_back({option.name, type_name(option.type),
                    option.default_value != nullptr ? option.default_value : "", range_of(option),
                    help});
  }
  print_text(rows.size() > 1 ? format_table(rows) : "It has no options.\n");
  print_text("Keys that every device has: ublk-runner.conf(5).\n");
  return kExitOk;
}

ExitStatus handlers(const Call& call) {
  const std::string dir =
      std::filesystem::absolute(call.has("handler-dir") ? call.option("handler-dir", "")
                                                        : default_dir())
          .string();
  return call.arguments.empty() ? list(dir, call.json())
                                : show(dir, call.arguments[0], call.json());
}

}  // namespace

Command handlers_command() {
  return {
      "handlers",
      "[NAME]",
      "The handlers, or the options of one; needs no runner",
      0,
      1,
      {{"handler-dir", "DIR", "Where they are looked for (default: as the configuration says)"}},
      handlers};
}

}  // namespace ublk_ctl
