// SPDX-License-Identifier: MIT
#include "owner_record.h"

#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "failure.h"

namespace rbd {

std::string OwnerRecord::text() const { return boot_id + ' ' + image_id + ' ' + address; }

std::optional<OwnerRecord> OwnerRecord::parse(const std::string& text) {
  std::istringstream words(text);
  OwnerRecord record;
  std::string rest;
  if (!(words >> record.boot_id >> record.image_id >> record.address) || words >> rest)
    return std::nullopt;
  return record;
}

std::string owner_record_key(const std::string& device) {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) fail(errno, "gethostname");
  return std::string("ublk-runner/") + host + '/' + device;
}

std::string this_boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  if (!(file >> id)) fail(EIO, "/proc/sys/kernel/random/boot_id");
  return id;
}

}  // namespace rbd
