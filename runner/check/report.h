// SPDX-License-Identifier: MIT
// What has come of the checks, for people and for programs.
#ifndef UBLK_CHECK_REPORT_H
#define UBLK_CHECK_REPORT_H

#include <string>
#include <vector>

#include "check.h"
#include "child.h"

namespace ublk_check {

struct Checked {
  const Check& check;
  Result result;
};

// A line for each check, below it what was found.
std::string format_check(const Checked& checked);
std::string format_json(const Subject& subject, const std::vector<Checked>& all);

size_t nr_failed(const std::vector<Checked>& all);

}  // namespace ublk_check

#endif  // UBLK_CHECK_REPORT_H
