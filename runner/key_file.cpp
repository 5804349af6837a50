// SPDX-License-Identifier: MIT
#include "key_file.h"

#include <fcntl.h>
#include <glib.h>
#include <sys/stat.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace ublk_runner {

namespace {

constexpr std::string_view kBlanks = " \t\r\f\v";
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

bool is_key(std::string_view text) {
  return !text.empty() && g_ascii_islower(text.front()) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return g_ascii_islower(c) || g_ascii_isdigit(c) || c == '_'; });
}

// GKeyFile warns on stderr of the second bad one of a value.
bool is_well_escaped(std::string_view value) {
  for (size_t at = 0; (at = value.find('\\', at)) != std::string_view::npos; at += 2)
    if (at + 1 == value.size() || std::string_view("sntr\\").find(value[at + 1]) == value.npos)
      return false;
  return true;
}

// Throws std::system_error, std::runtime_error.
std::string read_regular_file(const std::string& path) {
  const auto fail = [] { throw std::system_error(errno, std::generic_category()); };
  // O_NONBLOCK: a FIFO is refused, not waited for.
  const ublk::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) fail();
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) fail();
  if (S_ISDIR(st.st_mode)) throw std::system_error(EISDIR, std::generic_category());
  if (!S_ISREG(st.st_mode)) throw std::runtime_error("it is no regular file");

  std::string content;
  std::array<char, 1 << 14> buffer;
  while (true) {
    const ssize_t length = read(fd.get(), buffer.data(), buffer.size());
    if (length == 0) return content;
    if (length > 0)
      content.append(buffer.data(), static_cast<size_t>(length));
    else if (errno != EINTR)
      fail();
  }
}

// Goes through the lines. GKeyFile resolves the values: it is given the good lines alone, under
// groups that are numbered, so that it neither stops at the first bad line nor merges groups.
class Scanner {
 public:
  Scanner(const std::string& path, std::vector<Finding>& findings)
      : path_(path), findings_(findings) {}

  std::vector<KeyFileGroup> scan(std::string_view content) {
    while (!content.empty()) {
      const size_t end = content.find('\n');
      ++line_;
      scan_line(content.substr(0, end));
      content.remove_prefix(end == std::string_view::npos ? content.size() : end + 1);
    }
    resolve_values();
    return std::move(groups_);
  }

 private:
  void report(std::string text) { add_finding(findings_, {path_, line_}, std::move(text)); }

  void scan_line(std::string_view line) {
    if (line_ == 1 && line.starts_with(kByteOrderMark)) {
      report("begins with a byte order mark, expected UTF-8 without one");
      line.remove_prefix(kByteOrderMark.size());
    }
    if (g_utf8_validate(line.data(), static_cast<gssize>(line.size()), nullptr) == FALSE) {
      report("is not UTF-8");
      return;
    }
    line = trimmed(line);
    if (line.empty() || line.front() == '#') return;
    if (line.front() == '[')
      scan_group(line);
    else
      scan_setting(line);
  }

  // After a bad group the keys below it are checked for their form alone.
  void scan_group(std::string_view line) {
    in_group_ = false;
    after_bad_group_ = true;
    const std::string_view name = trimmed(line.substr(1, line.find_first_of("[]", 1) - 1));
    if (line.find_first_of("[]", 1) != line.size() - 1 || name.empty()) {
      report("expected [runner] or [device NAME], and nothing else on the line");
      return;
    }
    in_group_ = true;
    good_lines_ += '[' + std::to_string(groups_.size()) + "]\n";
    groups_.push_back({std::string(name), {path_, line_}, {}, {}});
  }

  void scan_setting(std::string_view line) {
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos) {
      report("expected KEY = VALUE, [GROUP] or # COMMENT");
      return;
    }
    const std::string key(trimmed(line.substr(0, equals)));
    if (!is_key(key)) {
      report(
          "expected a key of lower-case letters, digits and '_', beginning with a letter, "
          "before the '='");
      return;
    }
    if (!in_group_) {
      if (!after_bad_group_)
        report("key \"" + key + "\" is in no group; expected [runner] or [device NAME] before it");
      return;
    }
    const auto [setting, is_new] =
        groups_.back().settings.try_emplace(key, Setting{{}, {path_, line_}});
    if (!is_new) {
      report("key \"" + key + "\" is given twice, first at line " +
             std::to_string(setting->second.location.line));
      return;
    }
    setting->second.value = trimmed(line.substr(equals + 1));
    good_lines_ += key;
    good_lines_ += '=';
    good_lines_ += setting->second.value;
    good_lines_ += '\n';
  }

  void resolve_values() {
    const std::unique_ptr<GKeyFile, decltype(&g_key_file_unref)> file(g_key_file_new(),
                                                                      g_key_file_unref);
    // Fails for an empty file alone, which has nothing to be looked up.
    g_key_file_load_from_data(file.get(), good_lines_.data(), good_lines_.size(), G_KEY_FILE_NONE,
                              nullptr);
    for (size_t i = 0; i < groups_.size(); ++i)
      resolve_group(file.get(), std::to_string(i), groups_[i]);
  }

  void resolve_group(GKeyFile* file, const std::string& number, KeyFileGroup& group) {
    for (auto setting = group.settings.begin(); setting != group.settings.end();) {
      const std::string& key = setting->first;
      const std::unique_ptr<char, decltype(&g_free)> value(
          is_well_escaped(setting->second.value)
              ? g_key_file_get_string(file, number.c_str(), key.c_str(), nullptr)
              : nullptr,
          g_free);
      if (value != nullptr) {
        setting->second.value = value.get();
        ++setting;
        continue;
      }
      add_finding(findings_, setting->second.location,
                  "the value of \"" + key +
                      "\" has a bad escape sequence, expected \\s, \\n, \\t, \\r or "
                      "\\\\ after the backslash");
      group.unreadable.insert(key);
      setting = group.settings.erase(setting);
    }
  }

  const std::string& path_;
  std::vector<Finding>& findings_;
  int line_ = 0;
  bool in_group_ = false;
  bool after_bad_group_ = false;
  std::vector<KeyFileGroup> groups_;
  std::string good_lines_;
};

}  // namespace

std::vector<KeyFileGroup> read_key_file(const std::string& path, std::vector<Finding>& findings) {
  try {
    const std::string content = read_regular_file(path);
    return Scanner(path, findings).scan(content);
  } catch (const std::system_error& e) {
    add_finding(findings, {path, 0}, "cannot be read: " + e.code().message());
  } catch (const std::runtime_error& e) {
    add_finding(findings, {path, 0}, std::string("cannot be read: ") + e.what());
  }
  return {};
}

}  // namespace ublk_runner
