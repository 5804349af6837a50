// SPDX-License-Identifier: MIT
#include "statistics_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <exception>
#include <system_error>
#include <utility>
#include <vector>

#include "log.h"
#include "prometheus_text.h"
#include "write_all.h"

namespace ublk_runner {

namespace {

[[noreturn]] void fail(const std::string& path) {
  throw std::system_error(errno, std::generic_category(), path);
}

// Not fsync()ed: after a crash of the machine the next start writes it anew. The collector takes
// files that end in ".prom" alone, so not the one that is being written.
void replace_file(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  if (unlink(fresh.c_str()) != 0 && errno != ENOENT) fail(fresh);
  constexpr mode_t kReadableByAll = 0644;
  const ublk::UniqueFd fd(
      open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kReadableByAll));
  if (!fd) fail(fresh);
  if (fchmod(fd.get(), kReadableByAll) != 0) fail(fresh);
  write_all(fd.get(), text, fresh);
  if (rename(fresh.c_str(), path.c_str()) != 0) fail(path);
}

}  // namespace

StatisticsFile::StatisticsFile(Runner& runner, std::string path, std::chrono::seconds interval)
    : runner_(runner), path_(std::move(path)), interval_(interval) {
  tasks_.start(run());
}

Task<> StatisticsFile::run() {
  for (;;) {
    std::string trouble;
    try {
      std::vector<std::shared_ptr<ManagedDevice>> devices = runner_.devices();
      // All at once: each may wait for a thread that does not answer.
      std::vector<Task<DeviceStatistics>> asked;
      for (const auto& device : devices) asked.push_back(device->statistics());
      std::vector<Outcome<DeviceStatistics>> answers = co_await when_all(std::move(asked));
      std::vector<NamedStatistics> all;
      for (size_t i = 0; i < devices.size(); ++i)
        all.push_back({devices[i]->name(), answers[i].take()});
      const auto writing = runner_.jobs().run(
          [path = path_, text = prometheus_text(all)] { replace_file(path, text); });
      co_await writing;
    } catch (const std::exception& e) {
      trouble = e.what();
    }
    if (uint64_t skipped = 0; !trouble.empty() && complaints_.allow(skipped))
      log(LogLevel::kWarning, {}, "statistics_file: %s", trouble.c_str());
    const Completion<> never;
    co_await never.within(runner_.context(), interval_);
  }
}

}  // namespace ublk_runner
