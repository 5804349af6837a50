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

namespace {

std::string first_word(const char* path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

std::string this_machine() {
  std::string id = first_word("/etc/machine-id");
  if (!id.empty() && id != "uninitialized") return id;
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) fail(errno, "gethostname");
  return host;
}

}  // namespace

std::string owner_record_key(const std::string& device) {
  return "ublk-runner/" + this_machine() + '/' + device;
}

std::string this_boot_id() {
  constexpr const char* kPath = "/proc/sys/kernel/random/boot_id";
  std::string id = first_word(kPath);
  if (id.empty()) fail(EIO, kPath);
  return id;
}

}  // namespace rbd
