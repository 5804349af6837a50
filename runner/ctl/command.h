// SPDX-License-Identifier: MIT
//
// ublkctl(8): its commands, and how they are called and end.
#ifndef UBLK_CTL_COMMAND_H
#define UBLK_CTL_COMMAND_H

#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace ublk_ctl {

// How ublkctl ends. Part of its interface: scripts go by it.
enum ExitStatus {
  kExitOk = 0,
  kExitUsage = 1,         // wrong command, options or arguments
  kExitNoRunner = 2,      // nobody answers
  kExitFailed = 3,        // the operation was refused or has failed, in part at least
  kExitNotPermitted = 4,  // root is needed
  kExitNotFound = 5,      // there is no such device or handler
  kExitInUse = 6,         // somebody uses the device
};

// A command ends with `status`, and what() on stderr.
class CommandError : public std::runtime_error {
 public:
  CommandError(ExitStatus status, const std::string& text)
      : std::runtime_error(text), status_(status) {}
  ExitStatus status() const { return status_; }

 private:
  ExitStatus status_;
};

// "--name" or "--name=ARGUMENT".
struct OptionSpec {
  const char* name;
  const char* argument;  // nullptr: it has none
  const char* help;
  const char* bare = nullptr;  // what "--name" alone stands for; nullptr: it needs its argument
  char letter = '\0';          // "-n" is the same
};

// A command as it was called.
class Call {
 public:
  std::vector<std::string> arguments;          // those that are no options
  std::map<std::string, std::string> options;  // by name; without argument: ""

  bool has(const std::string& option) const { return options.contains(option); }
  std::string option(const std::string& name, const std::string& otherwise) const {
    const auto given = options.find(name);
    return given == options.end() ? otherwise : given->second;
  }
  bool json() const { return has("json"); }
};

struct Command {
  const char* name;
  const char* arguments;  // "NAME KEY=VALUE..."
  const char* summary;    // of one line
  size_t min_arguments;
  size_t max_arguments;
  std::vector<OptionSpec> options;
  ExitStatus (*run)(const Call& call);  // throws CommandError, std::exception: kExitFailed
};

// The argument of an option that is a time. Throws CommandError.
double parse_seconds(const std::string& option, const std::string& text);

inline constexpr size_t kAnyNumber = SIZE_MAX;

// All commands, in the order of --help.
std::span<const Command> commands();
// Those that every command has: --json, --socket, --system.
std::span<const OptionSpec> common_options();

// What each file of commands has.
std::vector<Command> device_commands();
Command handlers_command();
Command features_command();
Command doctor_command();
Command gc_command();
Command stats_command();
Command top_command();

}  // namespace ublk_ctl

#endif  // UBLK_CTL_COMMAND_H
