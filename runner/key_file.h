// SPDX-License-Identifier: MIT
//
// Reads one GLib key file and tells where everything stands, which GKeyFile does not:
//
//   # a comment, on a line of its own
//   [group]
//   key = value
//
// Spaces around a group, a key and a value do not count; \s \n \t \r \\ in a value stand for a
// space, newline, tab, carriage return and backslash.
#ifndef UBLK_RUNNER_KEY_FILE_H
#define UBLK_RUNNER_KEY_FILE_H

#include <map>
#include <set>
#include <string>
#include <vector>

#include "config.h"

namespace ublk_runner {

struct KeyFileGroup {
  std::string name;  // what is between the brackets
  Location location;
  std::map<std::string, Setting> settings;  // by key
  std::set<std::string> unreadable;         // keys that are there with a value that can't be read
};

// All groups of the file, in its order. What can't be read, is no such line, or is a key given
// twice in a group is appended to `findings` and left out; no text of the file but names is shown
// there, since any value may be a secret. Groups of the same name are not merged.
std::vector<KeyFileGroup> read_key_file(const std::string& path, std::vector<Finding>& findings);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_KEY_FILE_H
