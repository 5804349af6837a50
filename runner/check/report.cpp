// SPDX-License-Identifier: MIT
#include "report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ublk_check {

namespace {

const char* verdict(const Result& result) {
  if (!result.findings.empty()) return "FAILED";
  return result.skipped.empty() ? "ok" : "skipped";
}

}  // namespace

std::string format_check(const Checked& checked) {
  const Result& result = checked.result;
  std::string text = std::string(checked.check.name) + ": " + verdict(result);
  if (!result.skipped.empty() && result.findings.empty()) text += ", " + result.skipped;
  text += '\n';
  for (const std::string& finding : result.findings) text += "    " + finding + '\n';
  for (const std::string& note : result.notes) text += "    note: " + note + '\n';
  if (result.findings.empty()) return text;
  for (const std::string& line : result.log) text += "    log: " + line + '\n';
  return text;
}

std::string format_json(const Subject& subject, const std::vector<Checked>& all) {
  nlohmann::ordered_json json;
  json["handler"] = subject.file.name();
  json["file"] = subject.file.dir() + "/handler_" + subject.file.name() + ".so";
  json["seed"] = subject.seed;
  json["failed"] = nr_failed(all);
  json["checks"] = nlohmann::ordered_json::array();
  for (const Checked& checked : all) {
    const Result& result = checked.result;
    json["checks"].push_back({{"name", checked.check.name},
                              {"verdict", verdict(result)},
                              {"findings", result.findings},
                              {"notes", result.notes},
                              {"skipped", result.skipped},
                              {"log", result.log}});
  }
  // What a handler has printed may be anything.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

size_t nr_failed(const std::vector<Checked>& all) {
  return static_cast<size_t>(std::count_if(
      all.begin(), all.end(), [](const Checked& c) { return !c.result.findings.empty(); }));
}

}  // namespace ublk_check
