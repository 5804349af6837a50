// SPDX-License-Identifier: MIT
#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <string_view>
#include <system_error>
#include <utility>

#include "log.h"

namespace ublk_check {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostLogLines = 200;
constexpr char kEnd = 'E';

struct Pipe {
  ublk::UniqueFd read, write;
  Pipe() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
};

// Reads whole lines from a descriptor.
class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  bool ended() const { return ended_; }
  int fd() const { return ended_ ? -1 : fd_; }
  template <class Take>
  void read_some(Take take) {
    char buffer[4096];
    const ssize_t length = ::read(fd_, buffer, sizeof(buffer));
    if (length < 0 && errno == EINTR) return;
    if (length <= 0) {
      ended_ = true;
      if (!text_.empty()) take(text_);
      return;
    }
    text_.append(buffer, static_cast<size_t>(length));
    for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1))
      take(text_.substr(0, end));
  }

 private:
  const int fd_;
  std::string text_;
  bool ended_ = false;
};

[[noreturn]] void be_child(const std::function<void(const Reporter&)>& check, int report, int log) {
  dup2(log, STDERR_FILENO);
  dup2(log, STDOUT_FILENO);
  const Reporter reporter(report);
  try {
    check(reporter);
  } catch (const std::exception& e) {
    reporter.finding(e.what());
  }
  reporter.end();
}

std::string while_doing(const std::string& doing) { return doing.empty() ? "" : ", in: " + doing; }

void take_report(const std::string& line, Result& result, std::string& doing) {
  const std::string text = line.substr(std::min<size_t>(1, line.size()));
  switch (line.empty() ? '\0' : line.front()) {
    case 'F':
      if (std::find(result.findings.begin(), result.findings.end(), text) == result.findings.end())
        result.findings.push_back(text);
      break;
    case 'C':
      result.findings.push_back(text + while_doing(doing));
      break;
    case 'N':
      result.notes.push_back(text);
      break;
    case 'S':
      result.skipped = text;
      break;
    default:
      doing = text;
      break;
  }
}

// The runner's own complaints of a handler, "ERROR check: handler foo completed a request ...", are
// findings.
void take_log(const std::string& line, Result& result) {
  constexpr std::string_view kComplaint = "ERROR check: handler ";
  if (line.starts_with(kComplaint)) {
    std::string text = line.substr(kComplaint.size() - std::string_view("handler ").size());
    if (const size_t more = text.find(" ("); more != std::string::npos) text.resize(more);
    take_report('F' + text, result, text);
  }
  if (result.log.size() < kMostLogLines) result.log.push_back(line);
}

// How far the child's report has come.
struct Progress {
  std::string doing;
  bool crash_told = false;
  bool ended = false;  // by the check itself
};

void take_end(int status, bool killed, const Progress& progress, Result& result) {
  const std::string where = while_doing(progress.doing);
  if (killed) {
    result.findings.push_back("hangs: the check did not end in time" + where);
  } else if (WIFSIGNALED(status)) {
    if (!progress.crash_told)
      result.findings.push_back("crashes: " + std::string(strsignal(WTERMSIG(status))) + where);
  } else if (WEXITSTATUS(status) != 0 || !progress.ended) {
    result.findings.push_back("ends the process with status " +
                              std::to_string(WEXITSTATUS(status)) + where);
  }
}

}  // namespace

void Reporter::send(char kind, const std::string& text) const {
  const std::string line = kind + ublk_runner::escape_text(text) + '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t sent = write(fd_, line.data() + at, line.size() - at);
    if (sent < 0 && errno != EINTR) return;
    if (sent > 0) at += static_cast<size_t>(sent);
  }
}

void Reporter::hung(const std::string& text) const {
  finding(text);
  end();
}

void Reporter::end() const {
  send(kEnd, "");
  _exit(0);
}

Result run_in_child(const std::function<void(const Reporter&)>& check,
                    std::chrono::milliseconds limit) {
  Pipe report;
  Pipe log;
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) be_child(check, report.write.get(), log.write.get());
  report.write.reset();
  log.write.reset();

  Result result;
  Progress progress;
  bool killed = false;
  LineReader reports(report.read.get());
  LineReader lines(log.read.get());
  const auto end = Clock::now() + limit;
  while (!reports.ended() || !lines.ended()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0 && !killed) {
      killed = true;
      kill(child, SIGKILL);
    }
    pollfd fds[2] = {{reports.fd(), POLLIN, 0}, {lines.fd(), POLLIN, 0}};
    if (poll(fds, 2, static_cast<int>(std::max<int64_t>(left.count(), killed ? 1000 : 0))) == 0 &&
        killed)
      break;  // a process of the handler's own still holds the pipes
    if (fds[0].revents != 0)
      reports.read_some([&](const std::string& line) {
        if (line.starts_with(kEnd)) {
          progress.ended = true;
          return;
        }
        progress.crash_told = progress.crash_told || line.starts_with("C");
        take_report(line, result, progress.doing);
      });
    if (fds[1].revents != 0)
      lines.read_some([&](const std::string& line) { take_log(line, result); });
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  take_end(status, killed, progress, result);
  return result;
}

}  // namespace ublk_check
