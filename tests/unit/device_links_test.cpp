// SPDX-License-Identifier: MIT
//
// The names of devices: links that change in one step, and that touch nothing of others.
#include "device_links.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>

#include "test_data.h"

namespace ublk_runner {
namespace {

namespace fs = std::filesystem;

class DeviceLinksTest : public testing::Test {
 protected:
  std::string link(const std::string& name) const {
    return fs::read_symlink(dev_ / ("ublk/" + name)).string();
  }
  std::string node(const std::string& name) const { return dev_ / name; }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(dev_ / "ublk"), fs::directory_iterator()));
  }
  static int error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const std::system_error& e) {
      return e.code().value();
    }
    return 0;
  }

  const test::TempDir dev_;
  DeviceLinks links_{dev_ / "ublk"};
};

TEST_F(DeviceLinksTest, PointsToTheNodeBesideTheDirectory) {
  std::ofstream(node("ublkb3")) << "data";
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb3");
  EXPECT_EQ(test::file_size(dev_ / "ublk/disk0"), 4u);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(DeviceLinksTest, PointsToANodeElsewhereByItsPath) {
  links_.add("disk0", "/somewhere/ublkb3");
  EXPECT_EQ(link("disk0"), "/somewhere/ublkb3");
}

TEST_F(DeviceLinksTest, DirectoryHasMode0755WhateverTheUmask) {
  const mode_t old = umask(0077);
  links_.add("disk0", node("ublkb3"));
  umask(old);
  struct stat st {};
  ASSERT_EQ(stat((dev_ / "ublk").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0755u);
}

TEST_F(DeviceLinksTest, DirectoryThatIsThereKeepsItsMode) {
  fs::create_directory(dev_ / "ublk");
  fs::permissions(dev_ / "ublk", fs::perms::owner_all);
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(fs::status(dev_ / "ublk").permissions(), fs::perms::owner_all);
}

TEST_F(DeviceLinksTest, ReplacesAStaleLink) {
  links_.add("disk0", node("ublkb3"));
  DeviceLinks(dev_ / "ublk").add("disk0", node("ublkb4"));
  EXPECT_EQ(link("disk0"), "../ublkb4");
}

// It may be mounted under this name, and whoever opens the name would get another one's data.
TEST_F(DeviceLinksTest, LeavesTheNameOfADeviceThatExists) {
  if (mknod(node("ublkb3").c_str(), S_IFBLK | 0600, makedev(7, 0)) != 0)
    GTEST_SKIP() << "needs root, to make a node";
  links_.add("disk0", node("ublkb3"));
  std::string text;
  try {
    DeviceLinks(dev_ / "ublk").add("disk0", node("ublkb4"));
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EEXIST);
    text = e.what();
  }
  EXPECT_TRUE(text.starts_with(dev_ / "ublk/disk0 is the name of " + node("ublkb3") + " already"))
      << text;
  EXPECT_EQ(link("disk0"), "../ublkb3");
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb3");
  fs::remove(node("ublkb3"));
  links_.add("disk0", node("ublkb4"));
  EXPECT_EQ(link("disk0"), "../ublkb4");
}

TEST_F(DeviceLinksTest, NameIsThereAllTheTimeWhileItIsReplaced) {
  links_.add("disk0", node("ublkb0"));
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 2000; ++i) links_.add("disk0", node("ublkb" + std::to_string(i % 2)));
    done = true;
  });
  bool missing = false;
  while (!done) missing |= !fs::is_symlink(dev_ / "ublk/disk0");
  writer.join();
  EXPECT_FALSE(missing);
}

TEST_F(DeviceLinksTest, DoesNotFollowWhatIsThere) {
  fs::create_directory(dev_ / "ublk");
  fs::create_directory(dev_ / "target");
  fs::create_symlink("../target", dev_ / "ublk/disk0");
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb3");
  EXPECT_TRUE(fs::is_empty(dev_ / "target"));
}

TEST_F(DeviceLinksTest, RefusesToReplaceWhatIsNoLink) {
  fs::create_directory(dev_ / "ublk");
  std::ofstream(dev_ / "ublk/file") << "precious";
  fs::create_directory(dev_ / "ublk/dir");
  EXPECT_EQ(error_of([&] { links_.add("file", node("ublkb3")); }), EEXIST);
  EXPECT_EQ(error_of([&] { links_.add("dir", node("ublkb3")); }), EEXIST);
  EXPECT_EQ(test::file_size(dev_ / "ublk/file"), 8u);
  EXPECT_EQ(entries(), 2u);
  EXPECT_EQ(error_of([&] { links_.remove("file", node("ublkb3")); }), EEXIST);
  EXPECT_TRUE(fs::exists(dev_ / "ublk/file"));
}

TEST_F(DeviceLinksTest, RefusesADirectoryThatIsALink) {
  fs::create_directory(dev_ / "elsewhere");
  fs::create_directory_symlink("elsewhere", dev_ / "ublk");
  EXPECT_EQ(error_of([&] { links_.add("disk0", node("ublkb3")); }), ENOTDIR);
  EXPECT_TRUE(fs::is_empty(dev_ / "elsewhere"));
}

TEST_F(DeviceLinksTest, RefusesADirectoryThatIsAFile) {
  std::ofstream(dev_ / "ublk") << "x";
  EXPECT_EQ(error_of([&] { links_.add("disk0", node("ublkb3")); }), ENOTDIR);
}

TEST_F(DeviceLinksTest, LeftoverOfAKilledRunnerIsNoObstacle) {
  fs::create_directory(dev_ / "ublk");
  fs::create_symlink("../ublkb9", dev_ / "ublk/.#disk0");
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb3");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(DeviceLinksTest, RemovesItsLink) {
  links_.add("disk0", node("ublkb3"));
  links_.remove("disk0", node("ublkb3"));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(DeviceLinksTest, LeavesALinkThatPointsToAnotherDevice) {
  links_.add("disk0", node("ublkb3"));
  DeviceLinks(dev_ / "ublk").add("disk0", node("ublkb4"));
  links_.remove("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb4");
}

// Whoever writes to the name of a device that is gone must not reach the next of its number.
TEST_F(DeviceLinksTest, ANodeHasOneName) {
  links_.add("gone", node("ublkb3"));
  links_.add("other", node("ublkb4"));
  std::ofstream(dev_ / "ublk/file") << "../ublkb3";
  links_.add("disk0", node("ublkb3"));
  EXPECT_EQ(link("disk0"), "../ublkb3");
  EXPECT_FALSE(fs::is_symlink(dev_ / "ublk/gone"));
  EXPECT_EQ(link("other"), "../ublkb4");
  EXPECT_EQ(entries(), 3u);
}

TEST_F(DeviceLinksTest, AllNamesOfANodeAreRemoved) {
  links_.add("disk0", node("ublkb3"));
  links_.add("other", node("ublkb4"));
  fs::create_symlink("../ublkb3", dev_ / "ublk/by-hand");
  links_.remove_all(node("ublkb3"));
  EXPECT_EQ(link("other"), "../ublkb4");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(DeviceLinksTest, RemovalOfWhatIsGoneIsNoError) {
  links_.remove_all(node("ublkb3"));
  links_.remove("never-there", node("ublkb3"));
  links_.add("disk0", node("ublkb3"));
  fs::remove(dev_ / "ublk/disk0");
  links_.remove("disk0", node("ublkb3"));
  links_.add("disk0", node("ublkb3"));
  fs::remove_all(dev_ / "ublk");
  links_.remove("disk0", node("ublkb3"));
}

}  // namespace
}  // namespace ublk_runner
