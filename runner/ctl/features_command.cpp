// SPDX-License-Identifier: MIT
#include "ctl/command.h"
#include "ctl/kernel.h"
#include "ctl/output.h"

namespace ublk_ctl {

namespace {

ExitStatus run(const Call& call) {
  const uint64_t there = ask_features();
  if (call.json()) {
    Json flags = Json::array();
    for (const Feature& feature : features())
      flags.push_back({{"name", feature.name},
                       {"since", feature.since},
                       {"available", (there & feature.flag) != 0},
                       {"gives", feature.gives}});
    print_json(
        Json{{"kernel", kernel_release()}, {"features", there}, {"flags", std::move(flags)}});
    return kExitOk;
  }
  print_text("Linux " + kernel_release() + "\n");
  std::vector<Row> rows = {{"UBLK_F_", "SINCE", "HERE", "GIVES"}};
  for (const Feature& feature : features())
    rows.push_back(
        {feature.name, feature.since, (there & feature.flag) != 0 ? "yes" : "no", feature.gives});
  print_text(format_table(rows));
  return kExitOk;
}

}  // namespace

Command features_command() {
  return {"features", "", "What the kernel's ublk driver can do, and what for", 0, 0, {}, run};
}

}  // namespace ublk_ctl
