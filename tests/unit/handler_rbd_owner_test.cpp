// SPDX-License-Identifier: MIT
// What the rbd handler writes into an image's metadata is what its successor reads; what others
// have written there is nobody's address.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "owner_record.h"

namespace {

using rbd::OwnerRecord;

TEST(OwnerRecord, IsReadAsItWasWritten) {
  const OwnerRecord record{rbd::this_boot_id(), "10f2ab3c4d5e", "192.0.2.1:0/1234567890"};
  EXPECT_EQ(OwnerRecord::parse(record.text()), record);
  const OwnerRecord ipv6{"boot", "image", "[2001:db8::1]:0/42"};
  EXPECT_EQ(OwnerRecord::parse(ipv6.text()), ipv6);
}

TEST(OwnerRecord, OfOthersIsNone) {
  for (const char* text : {"", " ", "boot", "boot image", "boot image 192.0.2.1:0/1 more"})
    EXPECT_EQ(OwnerRecord::parse(text), std::nullopt) << text;
}

TEST(OwnerRecord, IsOneOfTheMachineAndTheDevice) {
  std::string machine;
  if (!(std::ifstream("/etc/machine-id") >> machine) || machine == "uninitialized") {
    char host[256] = "";
    ASSERT_EQ(gethostname(host, sizeof(host) - 1), 0);
    machine = host;
  }
  EXPECT_EQ(rbd::owner_record_key("disk0"), std::string("ublk-runner/") + machine + "/disk0");
  EXPECT_EQ(rbd::this_boot_id().size(), 36u);
}

}  // namespace
