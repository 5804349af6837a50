// SPDX-License-Identifier: MIT
#include "process_state.h"

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <vector>

namespace ublk_check {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

std::set<int> open_descriptors() {
  std::vector<int> seen;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd"))
    seen.push_back(std::stoi(entry.path().filename().string()));
  std::set<int> open;  // without that of the folder itself
  std::error_code ignored;
  for (const int fd : seen)
    if (fs::exists(fs::symlink_status("/proc/self/fd/" + std::to_string(fd), ignored)))
      open.insert(fd);
  return open;
}

size_t nr_threads() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/task")) ++count;
  return count;
}

std::string target_of(int fd) {
  std::error_code error;
  const fs::path target = fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error);
  return error ? "closed" : target.string();
}

std::string plural(size_t count, const std::string& what) {
  return std::to_string(count) + ' ' + what + (count == 1 ? "" : "s");
}

void append(std::string& text, const std::string& more) {
  if (!text.empty()) text += ", ";
  text += more;
}

}  // namespace

ProcessState ProcessState::now() {
  // Sanitizers' allocators keep what was freed, and tell of leaks themselves.
  if (kSanitized) return {open_descriptors(), nr_threads(), 0, 0};
  const struct mallinfo2 heap = mallinfo2();
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return {open_descriptors(), nr_threads(), heap.uordblks + heap.hblkhd,
          pages * static_cast<size_t>(sysconf(_SC_PAGESIZE))};
}

std::string left_behind(const ProcessState& before, const ProcessState& after, size_t heap_slack,
                        size_t maps_slack) {
  std::string text;
  std::string names;
  size_t descriptors = 0;
  for (const int fd : after.descriptors) {
    if (before.descriptors.contains(fd)) continue;
    if (++descriptors <= 4) append(names, target_of(fd));
  }
  if (descriptors != 0) append(text, plural(descriptors, "descriptor") + " (" + names + ')');
  if (after.threads > before.threads)
    append(text, plural(after.threads - before.threads, "thread"));
  if (after.heap > before.heap + heap_slack)
    append(text, plural(after.heap - before.heap, "byte") + " of the heap");
  if (after.maps > before.maps + maps_slack)
    append(text, plural(after.maps - before.maps, "byte") + " of address space");
  return text;
}

std::string left_behind_for_good(const ProcessState& before, size_t heap_slack, size_t maps_slack) {
  const auto deadline = std::chrono::steady_clock::now() + 1s;
  for (;;) {
    std::string left = left_behind(before, ProcessState::now(), heap_slack, maps_slack);
    if (left.empty() || std::chrono::steady_clock::now() >= deadline) return left;
    std::this_thread::sleep_for(10ms);  // nothing tells when a thread has let go
  }
}

}  // namespace ublk_check
