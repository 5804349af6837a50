// SPDX-License-Identifier: MIT
#include <ublk/error.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "ctl/command.h"
#include "ctl/kernel_devices.h"
#include "ctl/output.h"
#include "device_links.h"

namespace ublk_ctl {

namespace {

using Fate = Verdict::Fate;

const char* fate_name(Fate fate) {
  constexpr const char* kNames[] = {"served", "saved", "kept", "leftover"};
  return kNames[static_cast<size_t>(fate)];
}

std::unique_ptr<ublk::Control> open_control() {
  try {
    return std::make_unique<ublk::Control>();
  } catch (const ublk::Error& e) {
    if (e.error() != EACCES && e.error() != EPERM) throw;
    throw CommandError(kExitNotPermitted, e.what());
  }
}

ExitStatus run(const Call& call) {
  const std::unique_ptr<ublk::Control> control = open_control();
  ExitStatus status = kExitOk;
  Json all = Json::array();
  std::vector<Row> rows = {{"DEVICE", "STATE", "FATE", "REASON"}};
  const std::string state_dir = call.option("state-dir", UBLK_STATE_DIR);
  for (const KernelDevice& device : kernel_devices(*control, state_dir)) {
    const std::string name = "ublkb" + std::to_string(device.id);
    std::string fate = fate_name(device.verdict.fate);
    std::string reason = device.verdict.reason;
    if (device.verdict.fate == Fate::kLeftover && call.has("yes")) {
      try {
        check_leftover(*control, state_dir, device.id);
        // Its names first: once it is gone they would be those of the next device of that number.
        ublk_runner::DeviceLinks().remove_all(ublk::abi::kBlockDevicePrefix +
                                              std::to_string(device.id));
        remove_device(*control, device.id);
        fate = "removed";
      } catch (const std::system_error& e) {
        status = kExitFailed;
        reason = e.what();
      }
    }
    rows.push_back({name, device.state, fate, reason});
    all.push_back({{"device", name}, {"state", device.state}, {"fate", fate}, {"reason", reason}});
  }
  if (call.json()) {
    print_json(all);
  } else {
    print_text(rows.size() > 1 ? format_table(rows) : "no devices\n");
    if (!call.has("yes")) print_text("Nothing is removed; --yes removes what is leftover.\n");
  }
  return status;
}

}  // namespace

Command gc_command() {
  return {"gc",
          "",
          "Find devices that nobody serves or wants, and remove them",
          0,
          0,
          {{"state-dir", "DIR",
            "What runners have left for the next one (default: " UBLK_STATE_DIR ")"},
           {"yes", nullptr, "Remove them; else it is only told which"}},
          run};
}

}  // namespace ublk_ctl
