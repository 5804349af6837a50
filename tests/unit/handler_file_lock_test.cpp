// SPDX-License-Identifier: MIT
//
// No file is served twice, and none before its last server's writes have ended.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>

#include "handler_host.h"
#include "test_data.h"

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using test::Device;
using test::HandlerError;
using test::TempDir;

// A process that holds a lock on the file until it is killed, or for the given time.
class LockHolder {
 public:
  explicit LockHolder(const std::string& path, int operation = LOCK_EX, milliseconds hold = {}) {
    int ready[2];
    if (pipe(ready) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      const int fd = open(path.c_str(), O_RDWR);
      if (fd < 0 || flock(fd, operation) != 0) _exit(1);
      if (write(ready[1], "x", 1) != 1) _exit(1);
      if (hold == milliseconds::zero()) pause();
      usleep(static_cast<useconds_t>(hold.count()) * 1000);
      _exit(0);
    }
    char byte = 0;
    if (read(ready[0], &byte, 1) != 1) abort();
    close(ready[0]);
    close(ready[1]);
  }
  ~LockHolder() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  LockHolder(const LockHolder&) = delete;
  LockHolder& operator=(const LockHolder&) = delete;

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

class FileHandlerLock : public testing::Test {
 protected:
  std::string refusal(uint32_t flags = 0, milliseconds timeout = milliseconds(0)) {
    try {
      const Device disk("file", {{"path", path_}}, flags, 1, timeout);
      return {};
    } catch (const HandlerError& e) {
      EXPECT_EQ(e.error, EBUSY);
      return e.what();
    }
  }

  TempDir dir_;
  const std::string path_ = dir_.make_file("disk.img", 1 << 20);
};

TEST_F(FileHandlerLock, RefusesAFileOfAnotherProcessAndNamesBoth) {
  const LockHolder other(path_);
  const std::string text = refusal();
  EXPECT_EQ(text.find(path_ + ": locked by "), 0u) << text;
  EXPECT_NE(text.find("process " + std::to_string(other.pid())), std::string::npos) << text;
}

TEST_F(FileHandlerLock, GivesUpWhenTheTimeHasPassed) {
  const LockHolder other(path_);
  const auto start = steady_clock::now();
  EXPECT_NE(refusal(0, milliseconds(200)), "");
  const auto waited = steady_clock::now() - start;
  EXPECT_GE(waited, milliseconds(200));
  EXPECT_LT(waited, milliseconds(2000));
}

TEST_F(FileHandlerLock, GetsTheFileWhenTheOtherProcessEnds) {
  const LockHolder other(path_, LOCK_EX, milliseconds(150));
  EXPECT_EQ(refusal(UBLK_OPEN_RECOVERING, milliseconds(10000)), "");
}

TEST_F(FileHandlerLock, RefusesASecondDeviceOfTheSameProcess) {
  const Device first("file", {{"path", path_}});
  EXPECT_NE(refusal(), "");
  EXPECT_NE(refusal(UBLK_OPEN_READ_ONLY), "") << "it would change under a reader's eyes";
}

TEST_F(FileHandlerLock, LetsReadersShareAFileButNoWriterIn) {
  const LockHolder reader(path_, LOCK_SH);
  EXPECT_EQ(refusal(UBLK_OPEN_READ_ONLY), "");
  EXPECT_NE(refusal(), "");
}

TEST_F(FileHandlerLock, IsFreeWhenTheDeviceIsClosed) {
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(refusal(), "");
}

TEST_F(FileHandlerLock, MakesAFileLongerOnlyOnceItIsLocked) {
  const LockHolder other(path_, LOCK_EX, milliseconds(150));
  const Device disk("file", {{"path", path_}, {"size", "2M"}, {"create", "true"}});
  EXPECT_EQ(test::file_size(path_), 2u << 20);
  EXPECT_EQ(disk.geometry().size, 2u << 20);
}

TEST_F(FileHandlerLock, DoesNotTouchAFileOfAnotherProcess) {
  const LockHolder other(path_);
  EXPECT_THROW(
      Device("file", {{"path", path_}, {"size", "2M"}, {"create", "true"}}, 0, 1, milliseconds(0)),
      HandlerError);
  EXPECT_EQ(test::file_size(path_), 1u << 20);
}

}  // namespace
