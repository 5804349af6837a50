// SPDX-License-Identifier: MIT
//
// The log: one line an event, on stderr, which a service manager puts into its journal, or to the
// system log.
//
//   log(LogLevel::kWarning, "disk0", "backend gone: %s", text);
//
// gives "WARNING disk0: backend gone: ...", or "<4>disk0: ..." if stderr is the journal, which
// takes the level from there. Without a device the line is "WARNING: ...", or "<4>...".
//
// The system log gets "disk0: backend gone: ..." with the level as its priority.
//
// Control characters and what is not UTF-8 are written as \n, \t or \xNN, so a text is one line
// whatever it contains. A longer text than kMaxLine is cut, and ends in "...".
//
// Secrets: the value of an option with UBLK_OPTION_SECRET must never be given to log().
#ifndef UBLK_RUNNER_LOG_H
#define UBLK_RUNNER_LOG_H

#include <cstdarg>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace ublk_runner {

// In the order of enum ublk_log_level, with the same values.
enum class LogLevel { kError, kWarning, kInfo, kDebug };

// "error", "warning", "info", "debug": the words of the configuration.
const char* to_string(LogLevel level);
std::optional<LogLevel> parse_log_level(std::string_view word);

// Lines below this level are dropped before they are formatted; kInfo at first. Any thread.
void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);

// From now on lines go to the system log and not to stderr: for a process in the background. False,
// and no change, if nobody listens there. Any thread.
bool log_to_syslog(const std::string& socket = "/dev/log");

// Writes one line with one write(). Any thread. Never waits for the reader: the journal may be
// waiting for a disk that this thread serves. So a line that finds stderr or the system log full is
// lost, and the next one that gets through says how many were. Keeps errno.
void log(LogLevel level, std::string_view device, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
void vlog(LogLevel level, std::string_view device, const char* format, va_list args)
    __attribute__((format(printf, 3, 0)));

// Bytes of a line with its newline: what a pipe takes in one piece (PIPE_BUF).
inline constexpr size_t kMaxLine = 4096;

// The text with control characters and bytes that are not UTF-8 escaped.
std::string escape_text(std::string_view text);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_LOG_H
