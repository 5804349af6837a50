// SPDX-License-Identifier: MIT
// A folder for the files that a fuzzer's subject reads.
#ifndef UBLK_TESTS_FUZZ_SCRATCH_FOLDER_H
#define UBLK_TESTS_FUZZ_SCRATCH_FOLDER_H

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace fuzz {

class ScratchFolder {
 public:
  ScratchFolder() {
    char pattern[] = "/dev/shm/ublk-fuzz-XXXXXX";
    if (mkdtemp(pattern) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + '/' + name; }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(*this / name, std::ios::binary) << text;
  }

 private:
  std::string path_;
};

}  // namespace fuzz

#endif  // UBLK_TESTS_FUZZ_SCRATCH_FOLDER_H
