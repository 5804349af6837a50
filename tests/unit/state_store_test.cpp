// SPDX-License-Identifier: MIT
// What is saved comes back; what others may have put into the folder does not.
#include "state_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "test_data.h"

namespace ublk_runner {
namespace {

SavedDevice example(const std::string& name) {
  SavedDevice device;
  device.name = name;
  device.id = 7;
  device.cookie = 0xfedcba9876543210;
  device.settings = {{"handler", "file"}, {"path", "/srv/a \"b\"\n\\"}, {"size", "1G"}};
  device.configured = false;
  device.held_since = std::chrono::nanoseconds(1234567890123);
  return device;
}

class StateStoreTest : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return dir_ + '/' + name; }
  void write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    std::ofstream(file(name)) << text;
    ASSERT_EQ(chmod(file(name).c_str(), mode), 0);
  }

  mode_t mode() const {
    struct stat status {};
    EXPECT_EQ(stat(dir_.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  const test::TempDir parent_;
  const std::string dir_ = parent_ / "state";
};

TEST_F(StateStoreTest, WhatIsSavedComesBack) {
  StateStore store(dir_);
  store.save(example("b"));
  store.save(example("a.b-c_1"));
  const StateStore::Contents contents = store.load();
  EXPECT_TRUE(contents.findings.empty());
  ASSERT_EQ(contents.devices.size(), 2u);
  const SavedDevice& device = contents.devices[1];
  const SavedDevice expected = example("b");
  EXPECT_EQ(contents.devices[0].name, "a.b-c_1");
  EXPECT_EQ(device.name, expected.name);
  EXPECT_EQ(device.id, expected.id);
  EXPECT_EQ(device.cookie, expected.cookie);
  EXPECT_EQ(device.settings, expected.settings);
  EXPECT_EQ(device.configured, expected.configured);
  EXPECT_EQ(device.held_since, expected.held_since);

  store.remove("b");
  store.remove("b");
  EXPECT_EQ(store.load().devices.size(), 1u);
}

TEST_F(StateStoreTest, NobodyElseCanReadIt) {
  StateStore store(dir_);
  store.save(example("a"));
  struct stat status {};
  ASSERT_EQ(stat(dir_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(file("a.json").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(StateStoreTest, AFolderThatOthersCouldEnterIsClosed) {
  std::filesystem::create_directory(dir_);
  ASSERT_EQ(chmod(dir_.c_str(), 0777), 0);
  const StateStore store(dir_);
  EXPECT_EQ(mode(), 0700u);
}

TEST_F(StateStoreTest, WhatARunnerLeftIsClosedToo) {
  { StateStore(dir_).save(example("a")); }
  write(".#b.json", "{");
  write("bus", "");
  ASSERT_EQ(chmod(dir_.c_str(), 0755), 0);
  const StateStore store(dir_);
  EXPECT_EQ(mode(), 0700u);
  EXPECT_EQ(store.load().devices.size(), 1u);
}

// --state-dir /tmp
TEST_F(StateStoreTest, AFolderOfOthersKeepsItsMode) {
  std::filesystem::create_directory(dir_);
  write("foreign", "x");
  for (const mode_t open : {0755u, 01777u}) {
    ASSERT_EQ(chmod(dir_.c_str(), open), 0);
    try {
      const StateStore store(dir_);
      ADD_FAILURE() << "taken with mode " << std::oct << open;
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(e.what(), dir_ + " is open to others (mode " + (open == 0755 ? "0755" : "1777") +
                              "), expected a folder of its own");
    }
    EXPECT_EQ(mode(), open);
  }
  EXPECT_FALSE(std::filesystem::exists(file("lock")));
  std::filesystem::remove(file("foreign"));
  EXPECT_THROW(StateStore store(dir_), std::runtime_error) << "it is sticky, so it is shared";
  EXPECT_EQ(mode(), 01777u);
}

TEST_F(StateStoreTest, LinksAreNotFollowed) {
  std::filesystem::create_directory(parent_ / "elsewhere");
  std::filesystem::create_directory_symlink(parent_ / "elsewhere", dir_);
  EXPECT_THROW(StateStore store(dir_), std::system_error);
  std::filesystem::remove(dir_);

  StateStore store(dir_);
  std::ofstream(parent_ / "target") << "untouched";
  std::filesystem::create_symlink(parent_ / "target", file("a.json"));
  std::filesystem::create_symlink(parent_ / "target", file(".#a.json"));
  const StateStore::Contents contents = store.load();
  EXPECT_TRUE(contents.devices.empty());
  ASSERT_EQ(contents.findings.size(), 1u);
  EXPECT_EQ(contents.findings[0], file("a.json") + ": is a symbolic link");
  store.save(example("a"));
  EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(file("a.json"))));
  EXPECT_EQ(test::file_size(parent_ / "target"), 9u);
}

TEST_F(StateStoreTest, OneProcessHasIt) {
  const StateStore store(dir_);
  const pid_t other = fork();
  if (other == 0) {
    std::string error;
    try {
      const StateStore second(dir_);
    } catch (const StateLocked& e) {
      error = e.what();
    }
    _exit(error == dir_ + "/lock: another ublk-runner is running, process " +
                       std::to_string(getppid())
              ? 0
              : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0);
}

TEST_F(StateStoreTest, GarbageIsToldAndStays) {
  StateStore store(dir_);
  write("empty.json", "");
  write("text.json", "{\"version\": 1, secret");
  write("number.json", "17");
  write("newer.json", R"({"version": 2})");
  write("renamed.json", R"({"version": 1, "name": "other", "id": 1, "cookie": 1, "settings": {}})");
  write("type.json", R"({"version": 1, "name": "type", "id": "x", "cookie": 1, "settings": {}})");
  write("open.json", R"({"version": 1, "name": "open", "id": 1, "cookie": 1, "settings": {}})",
        0666);
  std::filesystem::create_directory(file("dir.json"));
  ASSERT_EQ(mkfifo(file("fifo.json").c_str(), 0600), 0);
  write("no state", "x");
  const StateStore::Contents contents = store.load();
  EXPECT_TRUE(contents.devices.empty());
  EXPECT_EQ(contents.findings.size(), 9u);
  for (const std::string& finding : contents.findings)
    EXPECT_EQ(finding.find("secret"), std::string::npos) << finding;
  EXPECT_TRUE(std::filesystem::exists(file("text.json")));
}

// Under UBSan, the conversion of a number that is too large is a fault of its own.
TEST_F(StateStoreTest, ANumberIsTakenAsItIsWrittenOrNotAtAll) {
  StateStore store(dir_);
  store.save(example("a"));
  std::ifstream in(file("a.json"));
  const auto whole = nlohmann::json::parse(in);
  for (const char* key : {"version", "id", "cookie"})
    for (const char* bad :
         {"-1", "1e300", "1.5", "18446744073709551616", "\"1\"", "true", "null"}) {
      nlohmann::json damaged = whole;
      damaged[key] = nlohmann::json::parse(bad);
      write("a.json", damaged.dump());
      const StateStore::Contents contents = store.load();
      EXPECT_TRUE(contents.devices.empty()) << key << ' ' << bad;
      ASSERT_EQ(contents.findings.size(), 1u) << key << ' ' << bad;
      EXPECT_TRUE(contents.findings[0].starts_with(file("a.json") + ": " + key + ": expected"))
          << contents.findings[0];
    }
}

TEST_F(StateStoreTest, ATimeThatCannotBeIsNone) {
  StateStore store(dir_);
  store.save(example("a"));
  std::ifstream in(file("a.json"));
  nlohmann::json damaged = nlohmann::json::parse(in);
  for (const char* bad : {"-1", "1e300", "18446744073709551615", "\"1\"", "null"}) {
    damaged["held_since_ns"] = nlohmann::json::parse(bad);
    write("a.json", damaged.dump());
    const StateStore::Contents contents = store.load();
    ASSERT_EQ(contents.devices.size(), 1u) << bad;
    EXPECT_EQ(contents.devices[0].held_since.count(), 0) << bad;
  }
}

// Every damage of a file is found or harmless: nothing crashes.
TEST_F(StateStoreTest, DamagedFilesCrashNothing) {
  StateStore store(dir_);
  store.save(example("a"));
  std::ifstream in(file("a.json"));
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text = whole;
    for (unsigned n = 1 + random() % 4; n != 0; --n)
      text[random() % text.size()] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    write("a.json", text);
    const StateStore::Contents contents = store.load();
    EXPECT_EQ(contents.devices.size() + contents.findings.size(), 1u);
  }
}

}  // namespace
}  // namespace ublk_runner
