// SPDX-License-Identifier: MIT
#include "file_lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <system_error>

namespace file {

bool try_lock(int fd, bool exclusive) {
  while (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "flock");
  }
  return true;
}

// A line of /proc/locks: "1: FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF", the device in hex.
std::string lock_holder(int fd) {
  struct stat st;
  if (fstat(fd, &st) == 0) {
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
      long pid = 0;
      unsigned major_number = 0;
      unsigned minor_number = 0;
      unsigned long inode = 0;
      if (std::sscanf(line.c_str(), "%*s FLOCK %*s %*s %ld %x:%x:%lu", &pid, &major_number,
                      &minor_number, &inode) == 4 &&
          inode == st.st_ino && makedev(major_number, minor_number) == st.st_dev && pid > 0)
        return "process " + std::to_string(pid);
    }
  }
  return "another process";
}

}  // namespace file
