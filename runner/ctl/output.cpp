// SPDX-License-Identifier: MIT
#include "ctl/output.h"

#include <glib.h>

#include <algorithm>
#include <cstdio>

namespace ublk_ctl {

namespace {

// Characters, not bytes.
size_t width(const std::string& text) {
  return static_cast<size_t>(g_utf8_strlen(text.data(), static_cast<gssize>(text.size())));
}

std::string padded(const std::string& text, size_t columns) {
  return text + std::string(columns - std::min(columns, width(text)), ' ');
}

void trim_end(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

}  // namespace

std::string format_table(const std::vector<Row>& rows) {
  if (rows.empty()) return "";
  std::vector<size_t> widths(rows[0].size(), 0);
  std::vector<bool> used(rows[0].size(), rows.size() == 1);
  for (size_t row = 0; row < rows.size(); ++row)
    for (size_t i = 0; i < rows[row].size(); ++i) {
      widths[i] = std::max(widths[i], width(rows[row][i]));
      if (row != 0 && !rows[row][i].empty()) used[i] = true;
    }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      if (used[i]) line += padded(row[i].empty() ? "-" : row[i], widths[i]) + "  ";
    trim_end(line);
    text += line + '\n';
  }
  return text;
}

std::string format_pairs(const std::vector<std::pair<std::string, std::string>>& pairs) {
  size_t columns = 0;
  for (const auto& [title, value] : pairs)
    if (!value.empty()) columns = std::max(columns, width(title) + 1);
  std::string text;
  for (const auto& [title, value] : pairs)
    if (!value.empty()) text += padded(title + ':', columns) + ' ' + value + '\n';
  return text;
}

void print_text(const std::string& text) { fputs(text.c_str(), stdout); }

void print_json(const Json& json) {
  puts(json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

}  // namespace ublk_ctl
