// SPDX-License-Identifier: MIT
// Devices that can't be opened say why, and hold up no others.
#include <chrono>
#include <fstream>
#include <string>

#include "rbd_client.h"

namespace ceph_test {
namespace {

using std::chrono::steady_clock;

class RbdOpenTest : public RbdTest {
 protected:
  std::string write_conf(const std::string& text) {
    const std::string path = dir_ + "/ceph.conf";
    std::ofstream(path) << text;
    return path;
  }
};

TEST_F(RbdOpenTest, WhatIsMissingIsNamed) {
  EXPECT_EQ(why_not({{"conf", dir_ + "/nowhere"}, {"image", "disk"}}),
            "open: " + dir_ + "/nowhere: No such file or directory");
  EXPECT_EQ(why_not({{"pool", "nowhere"}, {"image", "disk"}}),
            "open: nowhere/disk: there is no pool nowhere: No such file or directory");
  EXPECT_EQ(why_not({{"namespace", "none"}, {"image", "disk"}}),
            "open: rbd/none/disk: there is no namespace none: No such file or directory");
  EXPECT_EQ(why_not({{"image", "none"}}),
            "open: rbd/none: there is no image none: No such file or directory");
  EXPECT_EQ(why_not({{"image", "disk"}, {"snapshot", "none"}}),
            "open: rbd/disk@none: there is no snapshot none: No such file or directory");
}

TEST_F(RbdOpenTest, AnImageWhoseOwnSettingsAreNotToBeServedWithIsRefused) {
  for (const std::string setting : {"rbd_non_blocking_aio", "rbd_blocklist_on_break_lock"}) {
    const std::string image = create_image(setting);
    check(rbd_metadata_set(RbdImage(client_.pool(), image).get(), ("conf_" + setting).c_str(),
                           "false"));
    EXPECT_EQ(why_not({{"image", image}}), "open: rbd/" + image +
                                               ": the image or its pool has the setting " +
                                               setting + " = false, expected true");
    // What only writes need a device without any does without.
    config_.devices.clear();
    add_rbd("disk", {{"image", image}}).read_only = true;
    const bool concerns_reads = setting == "rbd_non_blocking_aio";
    EXPECT_EQ(start().failed.size(), concerns_reads ? 1u : 0u) << setting;
    stop();
  }
}

TEST_F(RbdOpenTest, AConfigurationThatIsNoneIsRefused) {
  const std::string path = write_conf("this is = [not one\n[\n");
  EXPECT_EQ(why_not({{"conf", path}, {"image", "disk"}})
                .find("open: " + path + ": can't be read as a configuration of Ceph"),
            0u);
}

TEST_F(RbdOpenTest, AKeyThatIsMissingIsToldWithItsPlaces) {
  const std::string path =
      write_conf("[global]\nmon host = v2:127.0.0.1:1\nkeyring = " + dir_ +
                 "/keyring\nauth client required = cephx\nauth service required = cephx\n");
  EXPECT_EQ(
      why_not({{"conf", path}, {"image", "disk"}, {"id", "reader"}}),
      "open: no key of client.reader: looked for " + dir_ + "/keyring: No such file or directory");
}

TEST_F(RbdOpenTest, AClusterThatDoesNotAnswerHoldsUpNoOtherDevice) {
  const std::string path =
      write_conf("[global]\nmon host = v2:127.0.0.1:1\nauth client required = none\n");
  for (int i = 0; i < 9; ++i)
    i % 2 == 0 ? add_rbd("disk" + std::to_string(i))
               : add("disk" + std::to_string(i), "memory", {{"size", "1M"}});
  for (const std::string name : {"lost", "lost2"})
    add_rbd(name, {{"conf", path}, {"image", "disk"}, {"connect_timeout", "2"}});
  const auto began = steady_clock::now();
  const fake::StartSummary summary = start();
  EXPECT_LT(steady_clock::now() - began, std::chrono::seconds(20));
  EXPECT_EQ(summary.started, 9u);
  ASSERT_EQ(summary.failed.size(), 2u);
  for (const auto& failed : summary.failed)
    EXPECT_EQ(failed.cause, "open: no monitor of " + path +
                                " has answered within 2 s (mon_host = v2:127.0.0.1:1): Connection "
                                "timed out");
  for (uint32_t id = 0; id < 9; ++id) {
    std::vector<std::byte> data(512);
    EXPECT_EQ(driver().disk(id)->read(0, 1, data.data()), 0);
  }
}

TEST_F(RbdOpenTest, ASnapshotIsReadOnlyAndStaysAsItWas) {
  add_rbd("disk");
  ASSERT_TRUE(start().failed.empty());
  const std::string image = config_.devices[0].options["image"].value;
  std::vector<std::byte> before(4096, std::byte{1});
  std::vector<std::byte> after(4096, std::byte{2});
  std::vector<std::byte> data(4096);
  ASSERT_EQ(driver().disk(0)->write(0, 8, before.data()), 0);
  check(rbd_snap_create(RbdImage(client_.pool(), image).get(), "then"));
  ASSERT_EQ(driver().disk(0)->write(0, 8, after.data()), 0);
  stop();
  config_.devices.clear();
  add_rbd("disk", {{"image", image}, {"snapshot", "then"}});
  ASSERT_TRUE(start().failed.empty());
  EXPECT_EQ(driver().disk(0)->read(0, 8, data.data()), 0);
  EXPECT_EQ(data, before);
  EXPECT_LT(driver().disk(0)->write(0, 8, after.data()), 0);
}

}  // namespace
}  // namespace ceph_test
