// SPDX-License-Identifier: MIT
#include "background.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <system_error>

#include "log.h"

namespace ublk_runner {

namespace {

std::string error_text() { return std::generic_category().message(errno); }

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// The parent's end of life.
[[noreturn]] void wait_for_child(pid_t child, int pipe) {
  unsigned char status;
  ssize_t length;
  do length = read(pipe, &status, sizeof(status));
  while (length < 0 && errno == EINTR);
  if (length == sizeof(status)) _exit(status);

  int wait_status = 0;
  while (waitpid(child, &wait_status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(wait_status)) _exit(WEXITSTATUS(wait_status));
  log(LogLevel::kError, {}, "killed by signal %d before any device was served",
      WTERMSIG(wait_status));
  _exit(2);
}

}  // namespace

Background::Background() {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe");
  ublk::UniqueFd from_child(ends[0]);
  parent_.reset(ends[1]);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child > 0) {
    parent_.reset();
    wait_for_child(child, from_child.get());
  }
  // The parent may be gone before the child has said that it wants to know.
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) fail("PR_SET_PDEATHSIG");
  if (getppid() != parent) _exit(0);
}

void Background::detach(int status) {
  prctl(PR_SET_PDEATHSIG, 0);
  if (setsid() < 0) log(LogLevel::kWarning, {}, "setsid: %s", error_text().c_str());
  if (chdir("/") != 0) log(LogLevel::kWarning, {}, "chdir: %s", error_text().c_str());
  const bool has_syslog = log_to_syslog();
  if (!has_syslog)
    log(LogLevel::kWarning, {}, "nobody listens at /dev/log: the log stays on stderr");
  if (const ublk::UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC)); null) {
    dup2(null.get(), STDIN_FILENO);
    dup2(null.get(), STDOUT_FILENO);
    if (has_syslog) dup2(null.get(), STDERR_FILENO);
  }
  const auto byte = static_cast<unsigned char>(status);
  // A parent that has gone meanwhile needs no answer; SIGPIPE is ignored.
  static_cast<void>(!write(parent_.get(), &byte, sizeof(byte)));
  parent_.reset();
}

}  // namespace ublk_runner
