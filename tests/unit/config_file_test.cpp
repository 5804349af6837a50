// SPDX-License-Identifier: MIT
// Files and folders of a configuration that can't be read, and one that is large.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "config_fixture.h"

namespace ublk_runner {
namespace {

TEST(ConfigFile, MissingOneIsAnError) {
  EXPECT_EQ(ConfigFiles(Files{}).errors(),
            std::vector<std::string>{"conf: cannot be read: No such file or directory"});
}

TEST(ConfigFile, DirectoryIsAnError) {
  const ConfigFiles files(Files{{"conf/x", ""}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{"conf: cannot be read: Is a directory"});
}

TEST(ConfigFile, FifoIsAnErrorAndNotWaitedFor) {
  const ConfigFiles files(Files{});
  ASSERT_EQ(mkfifo(files.path().c_str(), 0600), 0);
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf: cannot be read: it is no regular file"});
}

TEST(ConfigFile, DropInThatIsADirectoryIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d/x.conf/y", ""}});
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf.d/x.conf: cannot be read: Is a directory"});
}

TEST(ConfigFile, DropInThatPointsNowhereIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d/README", ""}});
  std::filesystem::create_symlink("gone", files.path("conf.d/x.conf"));
  EXPECT_EQ(files.errors(),
            std::vector<std::string>{"conf.d/x.conf: cannot be read: No such file or directory"});
}

TEST(ConfigFile, FolderThatIsAFileIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}, {"conf.d", ""}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{"conf.d: cannot be read: Not a directory"});
}

TEST(ConfigFile, UnreadableOneIsAnError) {
  const ConfigFiles files(Files{{"conf", ""}});
  ASSERT_EQ(chmod(files.path().c_str(), 0), 0);
  ASSERT_EQ(chmod(files.dir().path().c_str(), 0755), 0);
  constexpr uid_t kNobody = 65534;
  const uid_t user = geteuid();
  if (user == 0) {
    ASSERT_EQ(seteuid(kNobody), 0);  // root reads everything
  }
  const std::vector<std::string> errors = files.errors();
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_EQ(errors, std::vector<std::string>{"conf: cannot be read: Permission denied"});
}

TEST(ConfigFile, LargeOneIsRead) {
  std::string content;
  for (int i = 0; i < 20000; ++i)
    content += "[device d" + std::to_string(i) + "]\nhandler = null\n# padding, padding\n";
  content += "junk\n";
  const ConfigFiles files(Files{{"conf", content}});
  EXPECT_EQ(files.errors(), std::vector<std::string>{at("conf:60001", kLine)});
  std::vector<Finding> findings;
  EXPECT_EQ(load_config(files.path(), findings).devices.size(), 20000u);
}

}  // namespace
}  // namespace ublk_runner
