// SPDX-License-Identifier: MIT
// Files of a configuration, and what is told of those that are wrong.
#ifndef UBLK_TESTS_UNIT_CONFIG_FIXTURE_H
#define UBLK_TESTS_UNIT_CONFIG_FIXTURE_H

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <map>
#include <string>
#include <vector>

#include "config.h"
#include "test_data.h"

namespace ublk_runner {

using Files = std::map<std::string, std::string>;

// A folder with the files of one configuration; "conf" is the first of them.
class ConfigFiles {
 public:
  explicit ConfigFiles(const Files& files) {
    for (const auto& [name, content] : files) write(name, content);
  }

  void write(const std::string& name, const std::string& content) {
    const std::filesystem::path path(dir_ / name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }
  std::string path(const std::string& name = "conf") const { return dir_ / name; }
  const test::TempDir& dir() const { return dir_; }

  Config load() const { return load_config(path()); }

  // One "file:line: text" for each, the files without the folder.
  std::vector<std::string> errors() const {
    std::vector<Finding> findings;
    load_config(path(), findings);
    std::vector<std::string> texts;
    for (Finding finding : findings) {
      erase(finding.location.file);
      erase(finding.text);
      texts.push_back(to_string(finding.location) + ": " + finding.text);
    }
    return texts;
  }

 private:
  void erase(std::string& text) const {
    const std::string prefix = dir_.path() + '/';
    for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
  }

  test::TempDir dir_;
};

inline constexpr char kLine[] = "expected KEY = VALUE, [GROUP] or # COMMENT";

// The place, the text, and the value that is quoted after it, if one is.
inline std::string at(const std::string& place, const std::string& text,
                      const std::string& value = "") {
  return place + ": " + text + (value.empty() ? "" : '"' + value + '"');
}

}  // namespace ublk_runner

#endif  // UBLK_TESTS_UNIT_CONFIG_FIXTURE_H
