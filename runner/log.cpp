// SPDX-License-Identifier: MIT
#include "log.h"

#include <glib.h>
#include <poll.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "syslog_socket.h"

namespace ublk_runner {

namespace {

constexpr std::string_view kCut = "...";

struct Level {
  const char* word;   // in the configuration
  const char* label;  // in front of a line
  int priority;       // of syslog(3), and of sd-daemon(3)
};
constexpr std::array<Level, 4> kLevels = {{
    {"error", "ERROR", LOG_ERR},
    {"warning", "WARNING", LOG_WARNING},
    {"info", "INFO", LOG_INFO},
    {"debug", "DEBUG", LOG_DEBUG},
}};

const Level& level_of(LogLevel level) {
  return kLevels[std::min(static_cast<size_t>(level), kLevels.size() - 1)];
}

std::atomic<LogLevel> log_level{LogLevel::kInfo};

// True if the service manager has connected stderr to the journal, which it tells by the device and
// inode of that socket.
bool stderr_is_journal() {
  const char* stream = getenv("JOURNAL_STREAM");
  if (stream == nullptr) return false;
  uintmax_t device;
  uintmax_t inode;
  struct stat st {};
  return sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 &&
         fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

// A pipe, a socket or a terminal that can be written to takes kMaxLine bytes without a wait, as
// long as nobody writes in between: the other threads are kept out.
bool write_stderr(const std::string& line) {
  pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&fd, 1, 0) != 1 || (fd.revents & POLLOUT) == 0) return false;
  return write(STDERR_FILENO, line.data(), line.size()) >= 0;
}

// Cuts the text to what one write() takes with a line's end, not within a character.
void cut(std::string& text) {
  if (text.size() < kMaxLine) return;
  size_t end = kMaxLine - 1 - kCut.size();
  while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  text += kCut;
}

// Where the lines go. One for the process.
class Sink {
 public:
  bool use_syslog(const std::string& path) {
    const std::lock_guard lock(mutex_);
    SyslogSocket syslog;
    if (!syslog.connect(path)) return false;
    syslog_ = std::move(syslog);
    return true;
  }

  void put(LogLevel level, std::string_view device, const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (lost_ > 0 && write(LogLevel::kWarning, {},
                           "lines lost here, since nobody took them: " + std::to_string(lost_)))
      lost_ = 0;
    if (lost_ > 0 || !write(level, device, text)) ++lost_;
  }

 private:
  bool write(LogLevel level, std::string_view device, const std::string& text) {
    const Level& names = level_of(level);
    std::string line = device.empty() ? "" : escape_text(device) + ": ";
    line += escape_text(text);
    if (syslog_) {
      cut(line);
      return syslog_->send(names.priority, line);
    }
    if (journal_)
      line = '<' + std::to_string(names.priority) + '>' + line;
    else
      line = names.label + std::string(device.empty() ? ": " : " ") + line;
    cut(line);
    return write_stderr(line += '\n');
  }

  const bool journal_ = stderr_is_journal();
  std::mutex mutex_;
  std::optional<SyslogSocket> syslog_;
  uint64_t lost_ = 0;
};

// Never destroyed: threads may log while the process exits.
Sink& sink() {
  static Sink& sink = *new Sink;
  return sink;
}

std::string format_text(const char* format, va_list args) {
  std::array<char, kMaxLine + 1> text;
  const int length = vsnprintf(text.data(), text.size(), format, args);
  return length < 0 ? format : text.data();  // what is beyond kMaxLine would be cut anyway
}

}  // namespace

const char* to_string(LogLevel level) { return level_of(level).word; }

std::optional<LogLevel> parse_log_level(std::string_view word) {
  for (size_t i = 0; i < kLevels.size(); ++i)
    if (word == kLevels[i].word) return static_cast<LogLevel>(i);
  return std::nullopt;
}

void set_log_level(LogLevel level) { log_level.store(level, std::memory_order_relaxed); }

bool log_to_syslog(const std::string& socket) { return sink().use_syslog(socket); }

bool log_enabled(LogLevel level) { return level <= log_level.load(std::memory_order_relaxed); }

void log(LogLevel level, std::string_view device, const char* format, ...) {
  va_list args;
  va_start(args, format);
  vlog(level, device, format, args);
  va_end(args);
}

void vlog(LogLevel level, std::string_view device, const char* format, va_list args) {
  if (!log_enabled(level)) return;
  const int saved_errno = errno;
  sink().put(level, device, format_text(format, args));
  errno = saved_errno;
}

std::string escape_text(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  const auto escape_byte = [&escaped](char byte) {
    static constexpr char kDigits[] = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(byte);
    escaped += {'\\', 'x', kDigits[value >> 4], kDigits[value & 0xf]};
  };
  while (!text.empty()) {
    const gunichar c = g_utf8_get_char_validated(text.data(), static_cast<gssize>(text.size()));
    const bool valid = c != static_cast<gunichar>(-1) && c != static_cast<gunichar>(-2);
    const size_t length = valid ? g_unichar_to_utf8(c, nullptr) : 1;
    if (c == '\n') {
      escaped += "\\n";
    } else if (c == '\t') {
      escaped += "\\t";
    } else if (!valid || c < 0x20 || (c >= 0x7f && c < 0xa0)) {
      for (const char byte : text.substr(0, length)) escape_byte(byte);
    } else {
      escaped += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return escaped;
}

}  // namespace ublk_runner
