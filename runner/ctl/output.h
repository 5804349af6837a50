// SPDX-License-Identifier: MIT
//
// What commands write: tables for people, JSON for programs.
#ifndef UBLK_CTL_OUTPUT_H
#define UBLK_CTL_OUTPUT_H

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace ublk_ctl {

// Keys stay in the order in which they were set.
using Json = nlohmann::ordered_json;
using Row = std::vector<std::string>;

// The rows, the first of which has the titles, in columns as wide as their texts. A column whose
// cells are all empty is left out; other empty cells are "-".
std::string format_table(const std::vector<Row>& rows);

// "title: text" lines; texts begin in one column. Pairs with an empty text are left out.
std::string format_pairs(const std::vector<std::pair<std::string, std::string>>& pairs);

void print_text(const std::string& text);
void print_json(const Json& json);

}  // namespace ublk_ctl

#endif  // UBLK_CTL_OUTPUT_H
