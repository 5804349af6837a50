// SPDX-License-Identifier: MIT
//
// What a runner does with its devices.
#include <cstdio>
#include <utility>

#include "ctl/command.h"
#include "ctl/output.h"
#include "ctl/runner_client.h"
#include "ctl/settings.h"
#include "option_value.h"

namespace ublk_ctl {

namespace {

using ublk_runner::format_size;

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  return value.dump();
}

std::string size_of(const Json& device, const char* key) {
  const auto bytes = device[key].get<uint64_t>();
  return bytes == 0 ? "" : format_size(bytes);
}

ExitStatus list(const Call& call) {
  const Json devices = RunnerClient(call).devices();
  if (call.json()) {
    print_json(devices);
    return kExitOk;
  }
  std::vector<Row> rows = {
      {"NAME", "STATE", "HANDLER", "SIZE", "QUEUES", "DEPTH", "BUFFERS", "PATH", "TROUBLE"}};
  for (const Json& device : devices)
    rows.push_back({text_of(device["name"]), text_of(device["state"]), text_of(device["handler"]),
                    size_of(device, "size"), text_of(device["queues"]),
                    text_of(device["queue_depth"]), text_of(device["buffers"]),
                    text_of(device["path"]), text_of(device["trouble"])});
  print_text(format_table(rows));
  return kExitOk;
}

ExitStatus show(const Call& call) {
  const Json device = RunnerClient(call).device(call.arguments[0]);
  if (call.json()) {
    print_json(device);
    return kExitOk;
  }
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const auto& [key, value] : device.items()) {
    if (value.is_structured()) continue;
    const bool is_size = key == "size" || key == "max_io_size";
    pairs.emplace_back(key, is_size ? size_of(device, key.c_str()) : text_of(value));
  }
  print_text(format_pairs(pairs));
  pairs.clear();
  for (const auto& [key, value] : device["options"].items())
    pairs.emplace_back("  " + key, text_of(value));
  for (const Json& key : device["hidden_options"])
    pairs.emplace_back("  " + text_of(key), "(not shown)");
  if (!pairs.empty()) print_text("options:\n" + format_pairs(pairs));
  return kExitOk;
}

ExitStatus add(const Call& call) {
  const std::string& name = call.arguments[0];
  const auto settings = parse_settings(std::span(call.arguments).subspan(1));
  const std::string path = RunnerClient(call).add(name, settings, call.has("persist"));
  if (call.json())
    print_json(Json{{"name", name}, {"path", path}});
  else
    print_text(path + '\n');
  return kExitOk;
}

ExitStatus remove(const Call& call) {
  RunnerClient client(call);
  const std::string& name = call.arguments[0];
  const bool configured = client.device(name)["configured"].get<bool>();
  const bool persist = call.has("persist");
  client.remove(name, call.has("force"), persist);
  if (configured && !persist)
    fprintf(stderr,
            "ublkctl: %s is still in the configuration: the next reload or start brings it back; "
            "if \"ublkctl add --persist\" has written it there, its file is %s.conf, which "
            "\"ublkctl remove --persist\" would have removed, too\n",
            name.c_str(), name.c_str());
  return kExitOk;
}

ExitStatus resize(const Call& call) {
  const uint64_t size = parse_size(call.arguments[1]);
  RunnerClient client(call);
  const std::string& name = call.arguments[0];
  client.resize(name, size);
  if (client.device(name)["configured"].get<bool>())
    fprintf(stderr, "ublkctl: change the size of %s in the configuration, too, before a reload\n",
            name.c_str());
  return kExitOk;
}

ExitStatus restart(const Call& call) {
  RunnerClient(call).restart(call.arguments[0]);
  return kExitOk;
}

ExitStatus reload(const Call& call) {
  const RunnerClient::Applied applied = RunnerClient(call).reload(call.has("dry-run"));
  if (call.json()) {
    print_json(Json{{"done", applied.done}, {"failed", applied.failed}});
  } else {
    for (const std::string& line : applied.done) print_text(line + '\n');
    for (const std::string& line : applied.failed) fprintf(stderr, "ublkctl: %s\n", line.c_str());
    if (applied.done.empty() && applied.failed.empty()) print_text("nothing to change\n");
  }
  return applied.failed.empty() ? kExitOk : kExitFailed;
}

}  // namespace

std::vector<Command> device_commands() {
  return {
      {"list", "", "The devices", 0, 0, {}, list},
      {"show", "NAME", "All that is known of a device", 1, 1, {}, show},
      {"add",
       "NAME handler=HANDLER [KEY=VALUE...]",
       "Add a device and print its path once it is usable",
       2,
       kAnyNumber,
       {{"persist", nullptr, "Write it into the configuration, too"}},
       add},
      {"remove",
       "NAME",
       "Remove a device that nobody uses",
       1,
       1,
       {{"force", nullptr, "Also if somebody uses it, who gets I/O errors"},
        {"persist", nullptr, "Remove it from the configuration, too"}},
       remove},
      {"resize", "NAME SIZE", "Give a device another size", 2, 2, {}, resize},
      {"restart", "NAME", "Load and open a device's handler anew", 1, 1, {}, restart},
      {"reload",
       "",
       "Make the devices those of the configuration",
       0,
       0,
       {{"dry-run", nullptr, "Only tell what would be done"}},
       reload},
  };
}

}  // namespace ublk_ctl
