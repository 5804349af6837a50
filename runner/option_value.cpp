// SPDX-License-Identifier: MIT
#include "option_value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "log.h"

namespace ublk_runner {

namespace {

constexpr std::string_view kSuffixes = "KMGTP";
constexpr std::array<std::string_view, 4> kTrue = {"true", "yes", "on", "1"};
constexpr std::array<std::string_view, 4> kFalse = {"false", "no", "off", "0"};

// A value in an error: long ones are cut, what a terminal would obey is escaped.
std::string quoted(std::string_view text) {
  constexpr size_t kShown = 80;
  return '"' + escape_text(text.substr(0, kShown)) + (text.size() > kShown ? "...\"" : "\"");
}

[[noreturn]] void fail(const ublk_option& option, std::string_view text, std::string expected) {
  std::string message = "expected " + std::move(expected);
  if ((option.flags & UBLK_OPTION_SECRET) == 0) {
    message += text.empty() ? ", not an empty value" : ", not " + quoted(text);
    if (text.find(" #") != std::string_view::npos || text.find("\t#") != std::string_view::npos)
      message += " (a comment needs a line of its own)";
  }
  throw std::invalid_argument(message);
}

// Digits alone; nullopt also if it does not fit.
std::optional<uint64_t> parse_decimal(std::string_view text) {
  uint64_t number;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<uint64_t> parse_size(std::string_view text) {
  unsigned shift = 0;
  if (!text.empty()) {
    const size_t suffix = kSuffixes.find(text.back());
    if (suffix != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(suffix) + 1);
      text.remove_suffix(1);
    }
  }
  const std::optional<uint64_t> number = parse_decimal(text);
  if (!number || *number > std::numeric_limits<uint64_t>::max() >> shift) return std::nullopt;
  return *number << shift;
}

std::string format_number(const ublk_option& option, uint64_t number) {
  return option.type == UBLK_OPTION_SIZE ? format_size(number) : std::to_string(number);
}

// " from 1 to 8", " of at least 4K", or nothing.
std::string range_text(const ublk_option& option) {
  if (option.maximum != 0)
    return " from " + format_number(option, option.minimum) + " to " +
           format_number(option, option.maximum);
  if (option.minimum != 0) return " of at least " + format_number(option, option.minimum);
  return {};
}

uint64_t parse_number(const ublk_option& option, std::string_view text) {
  const bool is_size = option.type == UBLK_OPTION_SIZE;
  const std::optional<uint64_t> number = is_size ? parse_size(text) : parse_decimal(text);
  if (!number)
    fail(option, text,
         is_size ? "a size" + range_text(option) + " in bytes, such as 4096, 512K or 20G"
                 : "a number" + range_text(option));
  if (*number < option.minimum || (option.maximum != 0 && *number > option.maximum))
    fail(option, text, (is_size ? "a size" : "a number") + range_text(option));
  return *number;
}

bool parse_bool(const ublk_option& option, std::string_view text) {
  if (std::find(kTrue.begin(), kTrue.end(), text) != kTrue.end()) return true;
  if (std::find(kFalse.begin(), kFalse.end(), text) != kFalse.end()) return false;
  fail(option, text, "true or false");
}

uint64_t parse_choice(const ublk_option& option, std::string_view text) {
  const std::vector<std::string_view> words = choice_words(option);
  const auto word = std::find(words.begin(), words.end(), text);
  if (word == words.end()) fail(option, text, join_words(words));
  return static_cast<uint64_t>(word - words.begin());
}

// How many letters must be put in, taken out, replaced or swapped with their neighbour.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      row[j + 1] = std::min({last[j] + (a[i] == b[j] ? 0 : 1), last[j + 1] + 1, row[j] + 1});
      if (i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j])
        row[j + 1] = std::min(row[j + 1], before_last[j - 1] + 1);
    }
    std::swap(before_last, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

ublk_option_value parse_option_value(const ublk_option& option, const std::string& text) {
  ublk_option_value value{};
  value.is_set = 1;
  value.text = text.c_str();
  switch (option.type) {
    case UBLK_OPTION_STRING:
      if (text.empty()) fail(option, text, "a text");
      break;
    case UBLK_OPTION_PATH:
      if (!text.starts_with('/')) fail(option, text, "an absolute path");
      if (text.size() >= PATH_MAX)
        fail(option, text, "a path of less than " + std::to_string(PATH_MAX) + " bytes");
      break;
    case UBLK_OPTION_BOOL:
      value.boolean = parse_bool(option, text) ? 1 : 0;
      break;
    case UBLK_OPTION_INTEGER:
    case UBLK_OPTION_SIZE:
      value.number = parse_number(option, text);
      break;
    case UBLK_OPTION_CHOICE:
      value.number = parse_choice(option, text);
      break;
    default:
      throw std::invalid_argument("has the unknown type " + std::to_string(option.type));
  }
  return value;
}

std::string format_size(uint64_t bytes) {
  std::string suffix;
  for (const char letter : kSuffixes) {
    if (bytes == 0 || bytes % 1024 != 0) break;
    bytes /= 1024;
    suffix = letter;
  }
  return std::to_string(bytes) + suffix;
}

std::vector<std::string_view> choice_words(const ublk_option& option) {
  std::vector<std::string_view> words;
  std::string_view rest = option.choices == nullptr ? "" : option.choices;
  while (true) {
    const size_t bar = rest.find('|');
    words.push_back(rest.substr(0, bar));
    if (bar == std::string_view::npos) return words;
    rest.remove_prefix(bar + 1);
  }
}

std::string_view nearest_name(std::string_view name, const std::vector<std::string_view>& names) {
  std::string_view nearest;
  size_t distance = name.size() / 3 + 2;  // from here on, it is another word
  for (const std::string_view candidate : names) {
    const size_t d = edit_distance(name, candidate);
    if (d >= std::min(distance, candidate.size())) continue;
    nearest = candidate;
    distance = d;
  }
  return nearest;
}

std::string join_words(const std::vector<std::string_view>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 < words.size() ? ", " : " or ";
    text += words[i];
  }
  return text;
}

}  // namespace ublk_runner
