// SPDX-License-Identifier: MIT
//
// What a runner leaves behind for the next one: a file for each device that it serves, so that the
// next can tell which of the kernel's devices were its predecessor's and how they were served.
//
// The folder is root's alone, mode 0700, and so are the files; none is ever followed through a
// link, and each is replaced in one step. A file says what version it is of: what a later release
// wrote is reported and left alone.
//
// Versions: 1, and within a version keys are only added.
#ifndef UBLK_RUNNER_STATE_STORE_H
#define UBLK_RUNNER_STATE_STORE_H

#include <ublk/unique_fd.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace ublk_runner {

// The runner's socket, which is in the same folder.
inline constexpr char kBusSocketName[] = "bus";

struct SavedDevice {
  std::string name;                             // is_device_name()
  uint32_t id = 0;                              // the kernel's
  uint64_t cookie = 0;                          // what its ublksrv_flags must be
  std::map<std::string, std::string> settings;  // the keys of its [device NAME], as they were given
  bool configured = true;                       // by a file; else by a command at run time
  // When its I/O was last held for the next runner, in CLOCK_BOOTTIME; 0: it was served to the end.
  std::chrono::nanoseconds held_since{0};
};

// Another process has the lock of the folder.
class StateLocked : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Control thread.
class StateStore {
 public:
  // Makes the folder if there is none, and takes its lock, which one process has at a time; a
  // process that is just ending is waited for. Throws StateLocked, which names the process that has
  // it, or std::runtime_error that says what is wrong: it is no folder, or somebody else's, or open
  // to others without being a runner's alone.
  explicit StateStore(std::string dir);
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  struct Contents {
    std::vector<SavedDevice> devices;   // by name
    std::vector<std::string> findings;  // "file: what is wrong"; such files stay as they are
  };
  Contents load() const;
  // The same for one who only looks: takes no lock and makes nothing. Throws std::system_error:
  // there is no such folder, no permission.
  static Contents look(const std::string& dir);

  // Whether something of this name is saved, be it unreadable.
  bool has(const std::string& name) const;
  void save(const SavedDevice& device);  // throws std::system_error
  void remove(const std::string& name);  // throws std::system_error; no error if there is none

  const std::string& dir() const { return dir_; }

 private:
  const std::string dir_;
  const ublk::UniqueFd fd_;
  ublk::UniqueFd lock_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_STATE_STORE_H
