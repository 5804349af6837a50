// SPDX-License-Identifier: MIT
#include "config_watch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "main_context.h"
#include "test_data.h"

namespace ublk_runner {
namespace {

namespace fs = std::filesystem;

class ConfigWatchTest : public testing::Test {
 protected:
  ConfigWatchTest() {
    write(file_, "");
    fs::create_directory(folder_);
    start();
  }

  void start() {
    watch_.reset();
    watch_ = std::make_unique<ConfigWatch>(context_, file_, [this] { ++changes_; });
  }

  static void write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }

  // Turns the loop until `done`; false after 20 s.
  bool run_until(const std::function<bool()>& done) {
    bool late = false;
    const Source limit = context_.after(std::chrono::seconds(20), [&late] { late = true; });
    while (!done() && !late) g_main_context_iteration(context_.get(), TRUE);
    return done();
  }
  bool changes() {
    const int before = changes_;
    return run_until([&] { return changes_ > before; });
  }
  // Nothing that has happened so far leads to a change.
  bool stays_quiet() {
    const int before = changes_;
    bool over = false;
    const Source end = context_.after(3 * ConfigWatch::kQuietTime, [&over] { over = true; });
    run_until([&] { return over; });
    return changes_ == before;
  }

  const std::unique_ptr<GMainContext, decltype(&g_main_context_unref)> loop_{g_main_context_new(),
                                                                             g_main_context_unref};
  const MainContext context_{loop_.get()};
  const test::TempDir dir_;
  const std::string file_ = dir_ / "runner.conf";
  const std::string folder_ = file_ + ".d";
  int changes_ = 0;
  std::unique_ptr<ConfigWatch> watch_;
};

TEST_F(ConfigWatchTest, AFileThatIsWrittenInPlace) {
  write(file_, "[runner]\n");
  EXPECT_TRUE(changes());
}

TEST_F(ConfigWatchTest, AFileThatIsReplaced) {
  write(dir_ / "new", "[runner]\n");
  EXPECT_TRUE(stays_quiet());
  fs::rename(dir_ / "new", file_);
  EXPECT_TRUE(changes());
  write(file_, "");  // the new one is watched
  EXPECT_TRUE(changes());
}

TEST_F(ConfigWatchTest, FilesOfTheFolderComeAndGo) {
  write(folder_ + "/a.conf", "");
  EXPECT_TRUE(changes());
  fs::rename(folder_ + "/a.conf", folder_ + "/b.conf");
  EXPECT_TRUE(changes());
  fs::rename(folder_ + "/b.conf", folder_ + "/b.off");
  EXPECT_TRUE(changes());
  fs::rename(folder_ + "/b.off", folder_ + "/b.conf");
  EXPECT_TRUE(changes());
  fs::remove(folder_ + "/b.conf");
  EXPECT_TRUE(changes());
}

TEST_F(ConfigWatchTest, TheFolderGoesAndComes) {
  fs::remove(folder_);
  EXPECT_TRUE(changes());
  fs::create_directory(folder_);
  EXPECT_TRUE(changes());
  write(folder_ + "/a.conf", "");
  EXPECT_TRUE(changes());
}

TEST_F(ConfigWatchTest, AFolderThatComesLater) {
  fs::remove(folder_);
  start();
  fs::create_directory(folder_);
  write(folder_ + "/a.conf", "");
  EXPECT_TRUE(changes());
}

TEST_F(ConfigWatchTest, OtherFilesDoNotCount) {
  write(dir_ / "other.conf", "");
  write(folder_ + "/a.conf~", "");
  write(folder_ + "/.a.conf.swp", "");
  EXPECT_TRUE(stays_quiet());
}

TEST_F(ConfigWatchTest, ManyChangesCountAsFew) {
  for (int i = 0; i < 50; ++i) write(folder_ + '/' + std::to_string(i) + ".conf", "");
  EXPECT_TRUE(changes());
  EXPECT_TRUE(stays_quiet());
  EXPECT_LT(changes_, 10);
}

TEST_F(ConfigWatchTest, NothingAfterTheEnd) {
  write(file_, "[runner]\n");
  watch_.reset();
  write(file_, "");
  EXPECT_TRUE(stays_quiet());
  EXPECT_EQ(changes_, 0);
}

}  // namespace
}  // namespace ublk_runner
