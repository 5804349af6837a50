// SPDX-License-Identifier: MIT
//
// Lines of the log: their form on a terminal, in the journal and in the system log; whole ones, and
// never at the price of a wait.
#include "log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "test_data.h"

namespace ublk_runner {
namespace {

struct Pipe {
  Pipe() {
    std::array<int, 2> ends;
    if (pipe2(ends.data(), O_CLOEXEC) != 0) abort();
    from.reset(ends[0]);
    to.reset(ends[1]);
  }
  ublk::UniqueFd from, to;
};

std::string read_all(int fd) {
  std::string text;
  std::array<char, 65536> buffer;
  ssize_t length;
  while ((length = read(fd, buffer.data(), buffer.size())) > 0)
    text.append(buffer.data(), static_cast<size_t>(length));
  return text;
}

// Runs `body` in a process of its own, since the log finds out once where stderr goes, and returns
// what that has written there.
std::string logged(const std::function<void()>& body) {
  Pipe pipe;
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe.to.get(), STDERR_FILENO);
    pipe.from.reset();
    pipe.to.reset();
    body();
    _exit(0);
  }
  pipe.to.reset();
  std::string text = read_all(pipe.from.get());
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
  return text;
}

void claim_that_stderr_is_the_journal(int inode_offset = 0) {
  struct stat st {};
  fstat(STDERR_FILENO, &st);
  setenv("JOURNAL_STREAM",
         (std::to_string(st.st_dev) + ':' + std::to_string(st.st_ino + inode_offset)).c_str(), 1);
}

void log_at_each_level() {
  set_log_level(LogLevel::kDebug);
  log(LogLevel::kError, "disk0", "number %d", 1);
  log(LogLevel::kWarning, "disk0", "number %d", 2);
  log(LogLevel::kInfo, {}, "number %d", 3);
  log(LogLevel::kDebug, {}, "number %d", 4);
}

TEST(Log, LinesHaveLevelDeviceAndText) {
  EXPECT_EQ(logged(log_at_each_level),
            "ERROR disk0: number 1\n"
            "WARNING disk0: number 2\n"
            "INFO: number 3\n"
            "DEBUG: number 4\n");
}

TEST(Log, JournalGetsTheLevelAsPriority) {
  EXPECT_EQ(logged([] {
              claim_that_stderr_is_the_journal();
              log_at_each_level();
            }),
            "<3>disk0: number 1\n"
            "<4>disk0: number 2\n"
            "<6>number 3\n"
            "<7>number 4\n");
}

TEST(Log, JournalOfSomeoneElseIsNotOurs) {
  EXPECT_EQ(logged([] {
              claim_that_stderr_is_the_journal(1);
              log(LogLevel::kInfo, {}, "x");
              setenv("JOURNAL_STREAM", "nonsense", 1);
            }),
            "INFO: x\n");
}

TEST(Log, LevelHidesWhatIsBelow) {
  EXPECT_EQ(logged([] {
              log(LogLevel::kDebug, {}, "hidden at first");
              set_log_level(LogLevel::kError);
              log(LogLevel::kWarning, {}, "hidden");
              log(LogLevel::kError, {}, "shown");
            }),
            "ERROR: shown\n");
}

TEST(Log, OneLineWhateverTheTextHas) {
  EXPECT_EQ(logged([] {
              log(LogLevel::kInfo, "a\nb",
                  "one\ntwo\r\tthree \x1b[31m\x7f \xc2\x9b"
                  "31m");
              log(LogLevel::kInfo, {}, "%s", "d\xc3\xbcrer \xff \xe2\x82");
            }),
            "INFO a\\nb: one\\ntwo\\x0d\\tthree \\x1b[31m\\x7f \\xc2\\x9b31m\n"
            "INFO: d\xc3\xbcrer \\xff \\xe2\\x82\n");
}

TEST(Log, LongTextIsCut) {
  const std::string line = logged([] {
    const std::string text(100000, 'x');
    log(LogLevel::kInfo, "disk0", "%s", text.c_str());
  });
  EXPECT_EQ(line.size(), kMaxLine);
  EXPECT_TRUE(line.starts_with("INFO disk0: xxx"));
  EXPECT_TRUE(line.ends_with("x...\n"));
}

TEST(Log, CutIsBetweenCharacters) {
  for (const char* lead : {"", "x", "xx"}) {
    const std::string line = logged([lead] {
      std::string text = lead;
      for (int i = 0; i < 1300; ++i) text += "\xe2\x82\xac";
      for (int i = 0; i < 100; ++i) text += "\n\n\n\n\n\n\n\n";
      log(LogLevel::kInfo, {}, "%s", text.c_str());
    });
    EXPECT_LE(line.size(), kMaxLine);
    EXPECT_EQ(escape_text(line), line.substr(0, line.size() - 1) + "\\n");
  }
}

TEST(Log, LinesOfThreadsAreWhole) {
  constexpr int kThreads = 4;
  constexpr int kLines = 500;
  const std::string text = logged([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([t] {
        for (int i = 0; i < kLines; ++i) {
          log(LogLevel::kInfo, {}, "%d %d %s", t, i, std::string(200, 'x').c_str());
          // The reader may be slower, and then lines are lost.
          if (i % 20 == 0) usleep(1000);
        }
      });
    for (std::thread& thread : threads) thread.join();
  });
  std::istringstream lines(text);
  std::set<std::pair<int, int>> seen;
  size_t lost = 0;
  for (std::string line; std::getline(lines, line);) {
    int thread = -1;
    int number = -1;
    size_t count = 0;
    if (sscanf(line.c_str(), "WARNING: lines lost here, since nobody took them: %zu", &count) ==
        1) {
      lost += count;
      continue;
    }
    ASSERT_EQ(sscanf(line.c_str(), "INFO: %d %d x", &thread, &number), 2) << line;
    EXPECT_TRUE(line.ends_with(' ' + std::string(200, 'x'))) << line;
    EXPECT_TRUE(seen.emplace(thread, number).second) << line;
  }
  EXPECT_EQ(seen.size() + lost, size_t{kThreads * kLines});
}

// The reader of the log may wait for a disk of ours: then waiting for the reader would be for ever.
TEST(Log, FullPipeLosesLinesAndSaysSo) {
  constexpr size_t kLines = 30;
  EXPECT_EQ(logged([] {
              const int real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
              Pipe pipe;
              fcntl(pipe.to.get(), F_SETPIPE_SZ, 4 * 4096);
              dup2(pipe.to.get(), STDERR_FILENO);
              alarm(30);
              for (size_t i = 0; i < kLines; ++i)
                log(LogLevel::kInfo, {}, "%zu %s", i, std::string(2000, 'x').c_str());
              fcntl(pipe.from.get(), F_SETFL, O_NONBLOCK);
              const std::string got = read_all(pipe.from.get());
              log(LogLevel::kInfo, {}, "after");
              const std::string then = read_all(pipe.from.get());
              dup2(real_stderr, STDERR_FILENO);
              const auto whole = static_cast<size_t>(std::count(got.begin(), got.end(), '\n'));
              dprintf(STDERR_FILENO, "%d %d\n%s", whole > 0 && whole < kLines,
                      then.find(": " + std::to_string(kLines - whole) + '\n') != std::string::npos,
                      then.substr(then.find('\n') + 1).c_str());
            }),
            "1 1\nINFO: after\n");
}

TEST(Log, KeepsErrno) {
  EXPECT_EQ(logged([] {
              close(STDERR_FILENO);
              errno = ENOSPC;
              log(LogLevel::kInfo, {}, "nowhere");
              if (errno != ENOSPC) _exit(1);
            }),
            "");
}

// ---------------------------------------------------------------- system log --

class SyslogServer {
 public:
  explicit SyslogServer(std::string path) : path_(std::move(path)) { listen(); }

  void listen() {
    unlink(path_.c_str());
    socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) abort();
  }
  void close() { socket_.reset(); }

  // The next message; "" if there is none.
  std::string message() {
    std::array<char, 8192> buffer;
    const ssize_t length = recv(socket_.get(), buffer.data(), buffer.size(), 0);
    return length < 0 ? "" : std::string(buffer.data(), static_cast<size_t>(length));
  }

 private:
  const std::string path_;
  ublk::UniqueFd socket_;
};

TEST(Syslog, GetsPriorityProgramAndText) {
  const test::TempDir dir;
  SyslogServer server(dir / "log");
  EXPECT_EQ(logged([&] {
              if (!log_to_syslog(dir / "log")) _exit(1);
              log(LogLevel::kError, "disk0", "one\ntwo");
              log(LogLevel::kInfo, {}, "three");
            }),
            "");
  const std::string first = server.message();
  EXPECT_TRUE(first.starts_with("<27>")) << first;  // daemon.err
  EXPECT_NE(first.find(" ublk-runner["), std::string::npos) << first;
  EXPECT_TRUE(first.ends_with("]: disk0: one\\ntwo")) << first;
  const std::string second = server.message();
  EXPECT_TRUE(second.starts_with("<30>")) << second;  // daemon.info
  EXPECT_TRUE(second.ends_with("]: three")) << second;
}

TEST(Syslog, WithoutOneTheLogStaysOnStderr) {
  const test::TempDir dir;
  EXPECT_EQ(logged([&] {
              if (log_to_syslog(dir / "log")) _exit(1);
              if (log_to_syslog(dir / std::string(200, 'x'))) _exit(1);
              log(LogLevel::kInfo, {}, "here");
            }),
            "INFO: here\n");
}

TEST(Syslog, IsFoundAgainWhenItHasBeenRestarted) {
  const test::TempDir dir;
  logged([&] {
    SyslogServer server(dir / "log");
    log_to_syslog(dir / "log");
    server.close();
    log(LogLevel::kInfo, {}, "lost");
    server.listen();
    log(LogLevel::kInfo, {}, "found");
    if (!server.message().ends_with(": lines lost here, since nobody took them: 1")) _exit(1);
    if (!server.message().ends_with("]: found")) _exit(2);
  });
}

TEST(Syslog, FullOneIsNotWaitedFor) {
  const test::TempDir dir;
  SyslogServer server(dir / "log");
  logged([&] {
    log_to_syslog(dir / "log");
    alarm(30);
    for (int i = 0; i < 5000; ++i) log(LogLevel::kInfo, {}, "%s", std::string(1000, 'x').c_str());
    while (!server.message().empty()) {
    }
    log(LogLevel::kInfo, {}, "after");
    if (server.message().find("lines lost here") == std::string::npos) _exit(1);
    if (!server.message().ends_with("]: after")) _exit(2);
  });
}

// --------------------------------------------------------------------- words --

TEST(LogLevelWords, AreReadBack) {
  for (const LogLevel level :
       {LogLevel::kError, LogLevel::kWarning, LogLevel::kInfo, LogLevel::kDebug})
    EXPECT_EQ(parse_log_level(to_string(level)), level);
  for (const char* word : {"", "Info", "warn", "trace", "info "})
    EXPECT_FALSE(parse_log_level(word).has_value()) << word;
}

}  // namespace
}  // namespace ublk_runner
