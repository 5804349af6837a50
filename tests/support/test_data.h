// SPDX-License-Identifier: MIT
//
// Data to write and to compare with, and a folder to keep files in.
#ifndef UBLK_TESTS_SUPPORT_TEST_DATA_H
#define UBLK_TESTS_SUPPORT_TEST_DATA_H

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

namespace test {

// Bytes that differ from each other and between seeds, and none of which is zero.
inline std::vector<std::byte> pattern(size_t length, uint32_t seed = 1) {
  std::vector<std::byte> bytes(length);
  uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24 | 1);
  }
  return bytes;
}

inline std::vector<std::byte> zeroes(size_t length) { return std::vector<std::byte>(length); }

// A new folder that goes with all that is in it.
class TempDir {
 public:
  explicit TempDir(const std::string& parent = std::filesystem::temp_directory_path().string())
      : path_(parent + "/ublk-test-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr)
      throw std::system_error(errno, std::generic_category(), path_);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + '/' + name; }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(*this / name, std::ios::binary) << text;
  }
  // A file of `size` bytes, all of them in one hole.
  std::string make_file(const std::string& name, uint64_t size) const {
    std::string path = *this / name;
    std::ofstream(path).flush();
    std::filesystem::resize_file(path, size);
    return path;
  }

 private:
  std::string path_;
};

inline uint64_t file_size(const std::string& path) { return std::filesystem::file_size(path); }

// What the file takes up.
inline uint64_t allocated_bytes(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) throw std::system_error(errno, std::generic_category(), path);
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

inline std::vector<std::byte> file_bytes(const std::string& path) {
  std::vector<std::byte> bytes(file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_TEST_DATA_H
